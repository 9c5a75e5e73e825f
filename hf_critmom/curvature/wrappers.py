"""Wrappers around a model, and parameters that lie elsewhere."""

from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DataParallel, DistributedDataParallel

from hf_critmom.curvature.errors import CurvatureError
from hf_critmom.upstream import uncompiled_model


def unwrapped(model: nn.Module) -> nn.Module:
    """A model without the wrappers of data parallelism and compilation.

    Raises:
        CurvatureError: If its parameters are sharded or kept elsewhere, so that they have no second derivatives here.
    """
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            model = model.module
        elif (inner := uncompiled_model(model)) is not model:
            model = inner
        else:
            break
    sharded = None
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        sharded = "FSDP1"
    elif any(isinstance(p, DTensor) for p in model.parameters()):
        sharded = "FSDP2 or tensor parallelism"
    elif any(hasattr(p, "ds_id") for p in model.parameters()) or type(model).__name__ == "DeepSpeedEngine":
        sharded = "DeepSpeed"
    if sharded is not None:
        raise CurvatureError(
            f"The parameters are sharded over processes ({sharded}), where curvature is not measured: load a "
            "checkpoint into one process and measure there."
        )
    return model
