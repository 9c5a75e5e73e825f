"""ResNet-18 for small images, from timm's ResNet, as a Transformers model."""

import math

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput


class CifarResNetConfig(PreTrainedConfig):
    """Configuration of `CifarResNetForImageClassification`.

    Args:
        width: Channels of the stem and of ``layer1``; each later stage doubles them. 64 is the usual ResNet-18.
        num_blocks: Basic blocks in each of the four stages.
        num_channels: Channels of the images.
        image_size: Height and width in pixels of the images that the model was made for.
    """

    model_type = "cifar_resnet"

    width: int = 64
    num_blocks: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    num_channels: int = 3
    image_size: int = 32


class CifarResNetForImageClassification(PreTrainedModel):
    """ResNet-18 with a 3x3 stem and no max-pool, as usual for 32x32 images.

    Its parameters fall into seven groups: conv1, bn1, layer1, layer2, layer3, layer4, fc. With width 64, 3 channels
    and 10 classes there are 11,173,962 of them.
    """

    config_class = CifarResNetConfig
    base_model_prefix = "resnet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False  # the Trainer then averages the loss over accumulated batches itself

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__(config)
        if config.width < 2 or config.width % 2:
            raise ValueError(f"The width of a ResNet must be an even number of channels, got {config.width}.")
        from timm.models.resnet import BasicBlock, ResNet  # late: this module is imported with every Auto class

        # timm fixes the stem's channels at 64 unless the stem is deep, where they are twice stem_width; so ask for a
        # deep one and then put the single 3x3 convolution in its place.
        self.resnet = ResNet(
            BasicBlock,
            tuple(config.num_blocks),
            num_classes=config.num_labels,
            in_chans=config.num_channels,
            channels=tuple(config.width * 2**stage for stage in range(4)),
            stem_type="deep",
            stem_width=config.width // 2,
            zero_init_last=False,
        )
        self.resnet.conv1 = nn.Conv2d(config.num_channels, config.width, kernel_size=3, padding=1, bias=False)
        self.resnet.maxpool = nn.Identity()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialises one module: timm's scheme for convolutions, torch's for the classifier.

        The default of `PreTrainedModel`, a normal distribution of standard deviation 0.02, would overwrite both.
        """
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            bound = 1.0 / math.sqrt(module.in_features)
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple[torch.Tensor, ...]:
        """Classifies images.

        Args:
            pixel_values: Normalised images, (batch, channels, height, width).
            labels: Class indices, (batch,); with them the mean cross-entropy is computed.
            return_dict: False for a tuple.

        Returns:
            Loss (if there are labels) and logits (batch, classes).
        """
        logits = self.resnet(pixel_values.to(self.dtype))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutput(loss=loss, logits=logits)


AutoConfig.register("cifar_resnet", CifarResNetConfig, exist_ok=True)
AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification, exist_ok=True)
