"""Critically damped AdamW, slow and obvious."""

import math

import numpy as np

from hf_critmom.damping import LARGEST_MOMENTUM

BETA1 = {
    "linear": lambda s: 1.0 - 2.0 * s,
    "exact": lambda s: (1.0 - min(s, 1.0)) ** 2,
    "exponential": lambda s: math.exp(-2.0 * s),
    "ema": lambda s: ((1.0 - min(s * s, 1.0)) / (1.0 + min(s * s, 1.0))) ** 2,
}


class ReferenceTwin:
    """AdamW with a scheduled beta1, slow and obvious: one tensor after the other, in double precision.

    A parameter's own product of betas corrects its own bias; a step without a gradient is not one of its steps.
    """

    def __init__(
        self,
        params,
        *,
        rule="linear",
        hold=1.0,
        floor=0.0,
        curvature=1.0,
        betas=(None, 0.999),
        eps=1e-8,
        weight_decay=1e-2,
        amsgrad=False,
        maximize=False,
    ):
        self.values = [p.detach().numpy().copy() for p in params]
        self.rule, self.hold, self.floor, self.curvature = rule, hold, floor, curvature
        self.beta2, self.eps, self.weight_decay = betas[1], eps, weight_decay
        self.amsgrad, self.maximize = amsgrad, maximize
        self.m, self.v, self.largest_v = ([np.zeros_like(value) for value in self.values] for _ in range(3))
        self.steps, self.product = [0] * len(params), [1.0] * len(params)

    def beta1(self, lr):
        critical = min(max(BETA1[self.rule](math.sqrt(lr * self.curvature)), 0.0), LARGEST_MOMENTUM)
        return max(min(critical, self.hold), self.floor)

    def step(self, lr, gradients):
        beta1 = self.beta1(lr)
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            g = -gradient.numpy() if self.maximize else gradient.numpy()
            self.steps[i] += 1
            self.product[i] *= beta1
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * g
            self.v[i] = self.beta2 * self.v[i] + (1.0 - self.beta2) * g * g
            self.largest_v[i] = np.maximum(self.largest_v[i], self.v[i])
            v = self.largest_v[i] if self.amsgrad else self.v[i]
            m_hat = self.m[i] / (1.0 - self.product[i])
            v_hat = v / (1.0 - self.beta2 ** self.steps[i])
            decayed = self.values[i] - lr * self.weight_decay * self.values[i]
            self.values[i] = decayed - lr * m_hat / (np.sqrt(v_hat) + self.eps)
