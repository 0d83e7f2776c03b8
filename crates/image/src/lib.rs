//! OCI images from registries, layouts and archives, in a content store.
