//! The costrel command.
