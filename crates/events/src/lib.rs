//! Asynchronous invocations: a durable queue, retries, destinations.
