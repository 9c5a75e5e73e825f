"""Critically damped SGD, slow and obvious."""

import math


class ReferenceTwin:
    """Critically damped SGD, slow and obvious: one number after the other, in plain Python floats."""

    def __init__(self, values, *, hold=1.0, floor=0.0, weight_decay=0.0, nesterov=False, maximize=False):
        self.values = [float(value) for value in values]
        self.velocities = [None] * len(self.values)
        self.hold, self.floor, self.weight_decay = hold, floor, weight_decay
        self.nesterov, self.maximize = nesterov, maximize

    def step(self, lr, gradients):
        momentum = max(min(1.0 - 2.0 * math.sqrt(lr), self.hold), self.floor)
        for index, gradient in enumerate(gradients):
            gradient = -gradient if self.maximize else gradient
            gradient += self.weight_decay * self.values[index]
            velocity = self.velocities[index]
            velocity = gradient if velocity is None else momentum * velocity + gradient
            self.velocities[index] = velocity
            self.values[index] -= lr * (gradient + momentum * velocity if self.nesterov else velocity)
