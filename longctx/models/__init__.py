"""What answers: a model on this machine, a server elsewhere, a simulation. And how to find it."""
