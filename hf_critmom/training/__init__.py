"""The Trainer with critically damped momentum, its arguments and its callbacks."""
