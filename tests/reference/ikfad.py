"""iKFAD, slow and obvious."""

import math

import numpy as np


class ReferenceTwin:
    """The splitting of arXiv 2602.00334 as it is written, one tensor after the other, in double precision."""

    def __init__(self, params, *, gamma=1.0, alpha=1.0, mass=1.0, weight_decay=0.0, maximize=False):
        self.x = [p.detach().numpy().copy() for p in params]
        self.p, self.xi = ([np.zeros_like(x) for x in self.x] for _ in range(2))
        self.gamma, self.alpha, self.mass = gamma, alpha, mass
        self.weight_decay, self.maximize = weight_decay, maximize

    def step(self, lr, gradients):
        h = math.sqrt(lr)
        fade = math.exp(-self.alpha * h)
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            g = (-gradient if self.maximize else gradient).numpy() + self.weight_decay * self.x[i]
            self.p[i] = self.p[i] - h * g
            self.x[i] = self.x[i] + h * self.p[i]
            self.p[i] = self.p[i] * np.exp(-h * self.xi[i] / 2)
            self.xi[i] = fade * self.xi[i] + (1 - fade) * self.p[i] ** 2 / (self.mass * self.alpha)
            self.p[i] = self.p[i] * np.exp(-h * self.xi[i] / 2)
            self.p[i] = self.p[i] * math.exp(-self.gamma * h)
