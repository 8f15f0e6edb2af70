"""The objectives: what is compared, on log-probabilities of shape (batch,). No torch on import.

conf/loss/NAME.yaml names one of these classes, or one of your own that derives from Objective.
"""

from tspin.objectives.advantages import current_advantage, historical_advantage
from tspin.objectives.batchwise import IRIS, KTO
from tspin.objectives.contingency import contingency
from tspin.objectives.links import LINKS, LinkName
from tspin.objectives.logps import ROLES, Logps, Metrics, Role
from tspin.objectives.metrics import advantage_metrics, mean_metrics, reward_metrics
from tspin.objectives.objective import NonNegative, Objective, Positive, Range
from tspin.objectives.reference_free import CPO, ORPO, SSD, TPO, RePO, SimPO
from tspin.objectives.relative import IPO, NCA, SPACE, SPIF, SPPO, APOZero
from tspin.objectives.sft import SFT
from tspin.objectives.spin import SPIN
from tspin.objectives.tspin import TSPIN, TSPINRef, WithoutHA

__all__ = [
    "CPO",
    "IPO",
    "IRIS",
    "KTO",
    "LINKS",
    "NCA",
    "ORPO",
    "ROLES",
    "SFT",
    "SPACE",
    "SPIF",
    "SPIN",
    "SPPO",
    "SSD",
    "TPO",
    "TSPIN",
    "APOZero",
    "LinkName",
    "Logps",
    "Metrics",
    "NonNegative",
    "Objective",
    "Positive",
    "Range",
    "RePO",
    "Role",
    "SimPO",
    "TSPINRef",
    "WithoutHA",
    "advantage_metrics",
    "contingency",
    "current_advantage",
    "historical_advantage",
    "mean_metrics",
    "reward_metrics",
]
