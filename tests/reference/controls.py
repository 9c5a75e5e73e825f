"""The exact controls, slow and obvious."""

import math

from hf_critmom import critical_momentum


class ReferenceTwin:
    """A control, slow and obvious: sums over all earlier steps, in plain Python floats."""

    def __init__(self, value, used, taken, *, weight_decay, nesterov):
        self.value, self.velocity = value, 0.0
        self.used, self.taken = used, taken  # whose momentum, and whose integrated step; None: the critical one
        self.weight_decay, self.nesterov = weight_decay, nesterov
        self.rates = []

    def integrated(self, momentum):
        """Weights of all gradients so far in the newest step, per unit of its learning rate."""
        momenta = [critical_momentum(lr) if momentum is None else momentum for lr in self.rates]
        weights = [math.prod(momenta[step:]) for step in range(1, len(momenta) + 1)]
        return 1.0 + momenta[-1] * sum(weights) if self.nesterov else sum(weights)

    def step(self, lr, gradient):
        self.rates.append(lr)
        momentum = critical_momentum(lr) if self.used is None else self.used
        gradient += self.weight_decay * self.value
        self.velocity = momentum * self.velocity + gradient
        step = gradient + momentum * self.velocity if self.nesterov else self.velocity
        self.value -= lr * self.integrated(self.taken) / self.integrated(self.used) * step
