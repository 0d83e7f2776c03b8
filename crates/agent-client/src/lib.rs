//! The host's side of the conversation with the agent in the guest.
