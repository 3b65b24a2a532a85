"""The Processing algorithms, one per file."""

from .assessaccuracy import AssessAccuracy
from .checkengine import CheckEngine
from .createtiles import CreateTiles
from .generatepseudomasks import GeneratePseudomasks
from .inspectheads import InspectHeads
from .maplandcover import MapLandCover
from .predictlandcover import PredictLandCover
from .refinelandcover import RefineLandCover
from .reviewtags import ReviewTags
from .studyheads import StudyHeads
from .suggesttiles import SuggestTiles
from .tagtiles import TagTiles
from .trainclassifier import TrainClassifier
from .vectorizelandcover import VectorizeLandCover

ALGORITHMS = (
    MapLandCover,
    CreateTiles,
    TagTiles,
    ReviewTags,
    TrainClassifier,
    SuggestTiles,
    GeneratePseudomasks,
    RefineLandCover,
    PredictLandCover,
    AssessAccuracy,
    InspectHeads,
    StudyHeads,
    VectorizeLandCover,
    CheckEngine,
)
