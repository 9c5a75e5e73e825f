"""Quasi-hyperbolic momentum, slow and obvious."""

import math


class ReferenceTwin:
    """The formulas, slow and obvious: one number after the other, in plain Python floats."""

    def __init__(self, values, *, momentum=0.9, curvature=10.0, nu=None, weight_decay=0.0, maximize=False):
        self.values = [float(value) for value in values]
        self.velocities = [0.0] * len(self.values)
        self.momentum, self.curvature, self.nu = momentum, curvature, nu
        self.weight_decay, self.maximize = weight_decay, maximize

    def weight(self, lr):
        if self.nu is not None:
            return self.nu
        h = lr / (1.0 - self.momentum)
        if h * self.curvature <= 1.0 - self.momentum:
            return 0.0
        square = (1.0 - math.sqrt((1.0 - self.momentum) / (h * self.curvature))) ** 2
        return square / self.momentum if square < self.momentum else 1.0

    def step(self, lr, gradients):
        nu = self.weight(lr)
        for index, gradient in enumerate(gradients):
            gradient = -gradient if self.maximize else gradient
            gradient += self.weight_decay * self.values[index]
            self.velocities[index] = self.momentum * self.velocities[index] + gradient
            direction = nu * self.velocities[index] + (1.0 - nu) / (1.0 - self.momentum) * gradient
            self.values[index] -= lr * direction
