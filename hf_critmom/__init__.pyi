from .attribution import Attribution as Attribution
from .attribution import attribute_gradients as attribute_gradients
from .damping import critical_momentum as critical_momentum
from .damping import critical_nu as critical_nu
from .damping import damping_ratio as damping_ratio
from .damping import damping_regime as damping_regime
from .experiments.repair.runner import RepairSettings as RepairSettings
from .experiments.repair.runner import repair_layers as repair_layers
from .optim import IKFAD as IKFAD
from .optim import CritMomAdamW as CritMomAdamW
from .optim import CritMomQHM as CritMomQHM
from .optim import CritMomSGD as CritMomSGD
from .optim import critmom_optimizer as critmom_optimizer
from .optim import register as register
from .tasks.resnet import CifarResNetConfig as CifarResNetConfig
from .tasks.resnet import CifarResNetForImageClassification as CifarResNetForImageClassification
from .training.callbacks import AttributionCallback as AttributionCallback
from .training.callbacks import CurvatureCallback as CurvatureCallback
from .training.callbacks import DampingCallback as DampingCallback
from .training.callbacks import GradientNormCallback as GradientNormCallback
from .training.trainer import CritMomTrainer as CritMomTrainer

__version__: str
