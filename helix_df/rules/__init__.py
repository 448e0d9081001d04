"""What happens to a request, as pure functions and small machines: used by the runtime and the simulator alike."""
