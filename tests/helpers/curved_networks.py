"""Small networks whose curvature is known or whose second derivatives cannot be had."""

import torch
from helpers.curvature_programs import convolutional, examples, perceptron, train
from torch import nn

NETWORKS = {
    "tanh": (perceptron, 10),
    "relu": (lambda: perceptron((10, 40, 5), nn.ReLU), 10),
    "convolutions": (convolutional, 64),
    "deep": (lambda: perceptron((10, 16, 16, 16, 5), nn.GELU, seed=2), 10),
}


def network(name, steps):
    make, inputs = NETWORKS[name]
    model, batch = make(), examples(inputs)
    train(model, batch, steps)
    return model, batch


# --- Without second derivatives -------------------------------------------------------------------------------------


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.cos()


class SilentlyWrong(OnceDifferentiable):
    """Its backward pass is no part of the graph, as that of a kernel of one's own, and nothing says so."""

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.detach().cos()


class Sine(nn.Module):
    def __init__(self, function=None):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x) if self.function else x.sin()


def sines(function):
    model = perceptron()
    model[1], model[3] = Sine(function), Sine(function)
    return model
