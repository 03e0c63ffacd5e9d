"""What the phantom clinic can show: six modalities and four findings in each.

Invariant: in every modality exactly one finding is small (2.4-3.9 % of the image width, lost on a
48-pixel grid) and the others are large; every finding lies in one half of the image, never across
the midline. Sizes are fractions of the image width; `Modality.field_mm` turns them into mm, and
because the images are square the pixel spacing is the same in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Half = Literal["left", "right"]
"""A half of the image as displayed."""

SMALL_LIMIT = 0.04
"""Findings narrower than this fraction of the image width count as small."""


@dataclass(frozen=True, slots=True)
class FindingKind:
    """One finding a modality can show.

    Attributes:
        key: identifier in facts and truth. name, plural: as written in text, without article.
        article: "a", "an" or "" (mass nouns).
        sizes: smallest and largest diameter as a fraction of the image width.
        counts: how many lesions of this kind a finding may consist of (drawn uniformly).
        free_level: whether it occurs equally often at both levels of the modality, so that asking
            for the quadrant is fair.
        sign: how it looks, for reports.
        impression: what it means, for the impression of a report.
    """

    key: str
    name: str
    plural: str
    article: str
    sizes: tuple[float, float]
    counts: tuple[int, ...]
    free_level: bool
    sign: str
    impression: str

    @property
    def small(self) -> bool:
        """Whether the finding is below `SMALL_LIMIT` by nature."""
        return self.sizes[1] < SMALL_LIMIT

    @property
    def midpoint(self) -> float:
        """The nominal diameter as a fraction of the image width."""
        return round((self.sizes[0] + self.sizes[1]) / 2, 4)

    @property
    def with_article(self) -> str:
        """The name with its article: "a renal cyst", "hydronephrosis"."""
        return f"{self.article} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class Modality:
    """One kind of image.

    Attributes:
        key: identifier. name: as written in questions. dicom: DICOM modality code.
        field_mm: width of the square field of view in mm.
        views: the acquisitions drawn from (projection, sequence, stain).
        radiological: the image faces the viewer like the patient does, so the patient's right is
            on its left (radiographs, axial slices, transverse ultrasound, fundus); otherwise sides
            are image halves.
        levels: names of the upper and lower half of the image in this modality.
        findings: what it can show.
    """

    key: str
    name: str
    article: str
    dicom: str
    anatomy: str
    field_mm: float
    views: tuple[str, ...]
    radiological: bool
    levels: tuple[str, str]
    findings: tuple[FindingKind, ...]

    def kind(self, key: str) -> FindingKind:
        """The finding `key` of this modality."""
        return next(kind for kind in self.findings if kind.key == key)

    def side_of(self, half: Half) -> Half:
        """The side as a reader names it: the patient's in radiology, the image's elsewhere."""
        if not self.radiological:
            return half
        return "left" if half == "right" else "right"


_SMALL = (0.025, 0.038)

MODALITIES: tuple[Modality, ...] = (
    Modality(
        "chest_radiograph",
        "chest radiograph",
        "a",
        "DX",
        "chest",
        384.0,
        ("PA", "AP"),
        True,
        ("upper", "lower"),
        (
            FindingKind(
                "pleural_effusion",
                "pleural effusion",
                "pleural effusions",
                "a",
                (0.11, 0.22),
                (1,),
                False,
                "homogeneous basal opacity with a meniscus",
                "pleural effusion",
            ),
            FindingKind(
                "pneumothorax",
                "pneumothorax",
                "pneumothoraces",
                "a",
                (0.14, 0.26),
                (1,),
                False,
                "apical lucency without lung markings beyond a pleural line",
                "pneumothorax",
            ),
            FindingKind(
                "consolidation",
                "consolidation",
                "consolidations",
                "a",
                (0.11, 0.19),
                (1,),
                True,
                "ill-defined air-space opacity",
                "consolidation, likely pneumonia",
            ),
            FindingKind(
                "calcified_granuloma",
                "calcified granuloma",
                "calcified granulomas",
                "a",
                _SMALL,
                (1, 2, 3),
                True,
                "tiny dense sharply marginated nodule",
                "calcified granuloma, benign",
            ),
        ),
    ),
    Modality(
        "brain_mri",
        "brain MRI",
        "a",
        "MR",
        "brain",
        240.0,
        ("T1", "T2", "FLAIR"),
        True,
        ("anterior", "posterior"),
        (
            FindingKind(
                "brain_tumour",
                "brain tumour",
                "brain tumours",
                "a",
                (0.12, 0.20),
                (1,),
                True,
                "round mass with a thick rim and a necrotic centre",
                "intra-axial tumour, suspicious for high-grade glioma",
            ),
            FindingKind(
                "infarct",
                "cortical infarct",
                "cortical infarcts",
                "a",
                (0.14, 0.24),
                (1,),
                True,
                "wedge-shaped cortical signal abnormality",
                "cortical infarct",
            ),
            FindingKind(
                "subdural_haematoma",
                "subdural haematoma",
                "subdural haematomas",
                "a",
                (0.20, 0.30),
                (1,),
                False,
                "crescentic extra-axial collection of high signal",
                "subdural haematoma",
            ),
            FindingKind(
                "lacune",
                "lacune",
                "lacunes",
                "a",
                _SMALL,
                (1, 2, 3),
                True,
                "punctate fluid-signal cavity in the deep white matter",
                "lacunar infarction, chronic",
            ),
        ),
    ),
    Modality(
        "abdominal_ct",
        "abdominal CT",
        "an",
        "CT",
        "abdomen",
        384.0,
        ("axial",),
        True,
        ("anterior", "posterior"),
        (
            FindingKind(
                "renal_cyst",
                "renal cyst",
                "renal cysts",
                "a",
                (0.09, 0.16),
                (1,),
                True,
                "exophytic homogeneous water-attenuation lesion",
                "simple renal cyst",
            ),
            FindingKind(
                "hydronephrosis",
                "hydronephrosis",
                "hydronephrosis",
                "",
                (0.08, 0.12),
                (1,),
                False,
                "dilated renal pelvis and calyces",
                "hydronephrosis",
            ),
            FindingKind(
                "paracolic_fluid",
                "paracolic free fluid",
                "paracolic fluid collections",
                "",
                (0.16, 0.28),
                (1,),
                False,
                "crescentic fluid along the lateral abdominal wall",
                "free fluid in the paracolic gutter",
            ),
            FindingKind(
                "renal_calculus",
                "renal calculus",
                "renal calculi",
                "a",
                _SMALL,
                (1, 2, 3),
                False,
                "tiny high-attenuation focus in the kidney",
                "nephrolithiasis",
            ),
        ),
    ),
    Modality(
        "fundus_photograph",
        "fundus photograph",
        "a",
        "OP",
        "retina",
        12.0,
        ("macula-centred",),
        True,
        ("upper", "lower"),
        (
            FindingKind(
                "hard_exudates",
                "hard exudate patch",
                "hard exudate patches",
                "a",
                (0.10, 0.17),
                (1,),
                True,
                "cluster of sharply marginated yellow deposits",
                "hard exudates",
            ),
            FindingKind(
                "retinal_haemorrhage",
                "retinal haemorrhage",
                "retinal haemorrhages",
                "a",
                (0.09, 0.15),
                (1,),
                True,
                "dark red blot with irregular margins",
                "retinal haemorrhage",
            ),
            FindingKind(
                "cotton_wool_spot",
                "cotton-wool spot",
                "cotton-wool spots",
                "a",
                (0.09, 0.14),
                (1,),
                True,
                "fluffy greyish white patch",
                "cotton-wool spot, nerve-fibre layer infarct",
            ),
            FindingKind(
                "microaneurysm",
                "microaneurysm",
                "microaneurysms",
                "a",
                _SMALL,
                (1, 2, 3),
                True,
                "tiny round dark red dot",
                "microaneurysm formation",
            ),
        ),
    ),
    Modality(
        "histology",
        "histology slide",
        "a",
        "SM",
        "soft tissue",
        0.5,
        ("H&E",),
        False,
        ("upper", "lower"),
        (
            FindingKind(
                "malignant_gland",
                "malignant gland",
                "malignant glands",
                "a",
                (0.13, 0.21),
                (1,),
                True,
                "irregular gland with crowded hyperchromatic nuclei around a lumen",
                "adenocarcinoma",
            ),
            FindingKind(
                "necrosis",
                "necrosis",
                "necrotic areas",
                "",
                (0.16, 0.25),
                (1,),
                True,
                "anucleate eosinophilic debris",
                "tissue necrosis",
            ),
            FindingKind(
                "inflammation",
                "lymphocytic infiltrate",
                "lymphocytic infiltrates",
                "a",
                (0.13, 0.20),
                (1,),
                True,
                "dense aggregate of small round blue cells",
                "chronic inflammation",
            ),
            FindingKind(
                "mitotic_figure",
                "mitotic figure",
                "mitotic figures",
                "a",
                _SMALL,
                (1, 2, 3),
                True,
                "condensed dark chromatin in a clear halo",
                "mitotic activity",
            ),
        ),
    ),
    Modality(
        "ultrasound",
        "liver ultrasound",
        "a",
        "US",
        "liver",
        150.0,
        ("subcostal", "intercostal"),
        True,
        ("upper", "lower"),
        (
            FindingKind(
                "liver_cyst",
                "liver cyst",
                "liver cysts",
                "a",
                (0.09, 0.16),
                (1,),
                True,
                "anechoic round lesion with posterior enhancement",
                "simple hepatic cyst",
            ),
            FindingKind(
                "haemangioma",
                "haemangioma",
                "haemangiomas",
                "a",
                (0.09, 0.16),
                (1,),
                True,
                "well-defined hyperechoic lesion",
                "hepatic haemangioma",
            ),
            FindingKind(
                "metastasis",
                "liver metastasis",
                "liver metastases",
                "a",
                (0.11, 0.18),
                (1,),
                True,
                "target lesion with an echogenic centre and a hypoechoic rim",
                "hepatic metastasis",
            ),
            FindingKind(
                "liver_calcification",
                "liver calcification",
                "liver calcifications",
                "a",
                _SMALL,
                (1, 2, 3),
                True,
                "tiny bright echogenic focus",
                "hepatic calcification",
            ),
        ),
    ),
)

BY_KEY: dict[str, Modality] = {modality.key: modality for modality in MODALITIES}
FINDING_KEYS: tuple[str, ...] = tuple(
    kind.key for modality in MODALITIES for kind in modality.findings
)
"""All finding classes in a fixed order: the channel order of `dense_targets`."""
