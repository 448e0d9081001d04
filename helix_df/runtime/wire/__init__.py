"""What goes between coordinator and workers: messages, the transport, and emulated links."""
