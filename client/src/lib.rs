//! Hands a .blend to a Framecrew cluster and shows its frames as they happen.
