"""Codes of the structures for DICOM: the one table of them, in the words of DICOM's own code lists.

Codes are taken from DICOM PS3.16 alone (its context groups use SNOMED CT): the 32 permanent teeth from CID 4018, bones,
sinuses and pharynx from CID 4 and 7601, devices from CID 7151, sides from CID 244, categories from CID 7150. What the
standard has no code for has one of this project's, whose scheme begins with "99" as DICOM asks of private schemes.
Such a structure keeps all that is standard: the side, and where it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from umamba2.anatomy.structures import FDI_TEETH, Structure, pulp_name, tooth_name


@dataclass(frozen=True)
class Code:
    """A coded concept: its value in a scheme ("SCT" is SNOMED CT), and what it means."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Coding:
    """What a structure is, as a DICOM segment says it.

    Attributes:
        category: The kind of thing.
        kind: The thing.
        modifier: Its side, or which of such things; None if the kind says it all.
        region: Where in the body it is, if the kind does not say it.
    """

    category: Code
    kind: Code
    modifier: Code | None = None
    region: Code | None = None


_NO_TEXT = re.compile(r"[\\\x00-\x1f\x7f-\x9f]")
PRIVATE_SCHEME = "99UMAMBA2"
PRIVATE_SCHEME_NAME = "Structures of umamba2 that DICOM has no code for"

_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
_OBJECT = Code("260787004", "SCT", "Physical object")
_SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}
_MANDIBLE = Code("91609006", "SCT", "Mandible")
_MAXILLA = Code("70925003", "SCT", "Maxilla")
_MAXILLARY_SINUS = Code("15924003", "SCT", "Maxillary sinus")
_PROSTHESIS = Code("27606000", "SCT", "Dental Prosthesis")
_TOOTH = Code("38199008", "SCT", "Tooth")
_PULP = Code("PULP", PRIVATE_SCHEME, "Dental pulp")
_ALVEOLAR_CANAL = Code("IAC", PRIVATE_SCHEME, "Inferior alveolar canal")
_INCISIVE_CANAL = Code("MIC", PRIVATE_SCHEME, "Mandibular incisive canal")

# CID 4018, in the order of FDI_TEETH: value and meaning. Without "Permanent" where the standard leaves it out, too.
_CID_4018 = (
    ("422653006", "Permanent maxillary right central incisor tooth"),
    ("424877001", "Permanent maxillary right lateral incisor tooth"),
    ("860767006", "Permanent maxillary right canine tooth"),
    ("57826002", "Permanent maxillary right first premolar tooth"),
    ("36492000", "Permanent maxillary right second premolar tooth"),
    ("865995000", "Permanent maxillary right first molar tooth"),
    ("863902006", "Permanent maxillary right second molar tooth"),
    ("68085002", "Permanent maxillary right third molar tooth"),
    ("424399000", "Permanent maxillary left central incisor tooth"),
    ("423185002", "Permanent maxillary left lateral incisor tooth"),
    ("860780009", "Permanent maxillary left canine tooth"),
    ("61897005", "Permanent maxillary left first premolar tooth"),
    ("23226009", "Permanent maxillary left second premolar tooth"),
    ("865988009", "Permanent maxillary left first molar tooth"),
    ("863901004", "Permanent maxillary left second molar tooth"),
    ("87704003", "Permanent maxillary left third molar tooth"),
    ("425106001", "Mandibular left central incisor tooth"),
    ("423331005", "Mandibular left lateral tooth"),
    ("860782001", "Mandibular left canine tooth"),
    ("2400006", "Mandibular left first premolar tooth"),
    ("24573005", "Mandibular left second premolar tooth"),
    ("866006002", "Mandibular left first molar tooth"),
    ("863898000", "Mandibular left second molar tooth"),
    ("74344005", "Mandibular left third molar tooth"),
    ("424575004", "Mandibular right central incisor tooth"),
    ("423937004", "Mandibular right lateral incisor tooth"),
    ("860785004", "Mandibular right canine tooth"),
    ("80140008", "Mandibular right first premolar tooth"),
    ("8873007", "Mandibular right second premolar tooth"),
    ("866005003", "Mandibular right first molar tooth"),
    ("863899008", "Mandibular right second molar tooth"),
    ("38994002", "Mandibular right third molar tooth"),
)
TOOTH_CODES = {fdi: Code(value, "SCT", meaning) for fdi, (value, meaning) in zip(FDI_TEETH, _CID_4018)}

# By the names in the table of structures.
CODINGS: dict[str, Coding] = {
    "lower jawbone": Coding(_STRUCTURE, _MANDIBLE),
    "upper jawbone": Coding(_STRUCTURE, _MAXILLA),
    "left inferior alveolar canal": Coding(_STRUCTURE, _ALVEOLAR_CANAL, _SIDES["left"], _MANDIBLE),
    "right inferior alveolar canal": Coding(_STRUCTURE, _ALVEOLAR_CANAL, _SIDES["right"], _MANDIBLE),
    "left maxillary sinus": Coding(_STRUCTURE, _MAXILLARY_SINUS, _SIDES["left"]),
    "right maxillary sinus": Coding(_STRUCTURE, _MAXILLARY_SINUS, _SIDES["right"]),
    "pharynx": Coding(_STRUCTURE, Code("54066008", "SCT", "Pharynx")),
    "bridge": Coding(_OBJECT, _PROSTHESIS, Code("BRIDGE", PRIVATE_SCHEME, "Bridge")),
    "crown": Coding(_OBJECT, _PROSTHESIS, Code("CROWN", PRIVATE_SCHEME, "Crown")),
    "implant": Coding(_OBJECT, Code("40388003", "SCT", "Implant"), Code("DENTAL", PRIVATE_SCHEME, "Dental")),
    "left mandibular incisive canal": Coding(_STRUCTURE, _INCISIVE_CANAL, _SIDES["left"], _MANDIBLE),
    "right mandibular incisive canal": Coding(_STRUCTURE, _INCISIVE_CANAL, _SIDES["right"], _MANDIBLE),
    "lingual canal": Coding(_STRUCTURE, Code("LINGUAL", PRIVATE_SCHEME, "Lingual canal"), None, _MANDIBLE),
    "tooth": Coding(_STRUCTURE, _TOOTH),
    "pulp": Coding(_STRUCTURE, _PULP),
    **{tooth_name(fdi): Coding(_STRUCTURE, code) for fdi, code in TOOTH_CODES.items()},
    **{pulp_name(fdi): Coding(_STRUCTURE, _PULP, None, code) for fdi, code in TOOTH_CODES.items()},
}


def coding(structure: Structure) -> Coding:
    """The codes of a structure; those that are in no list, such as a challenge's of one's own, get a private one."""
    known = CODINGS.get(structure.name)
    if known is not None:
        return known
    # At most 16 characters, so that the id makes it one of its own among the structures of a challenge.
    name = dicom_text(structure.name)
    value = f"{structure.training}_{name.upper().replace(' ', '_')}"[:16]
    return Coding(_STRUCTURE, Code(value, PRIVATE_SCHEME, name))


def dicom_text(name: str) -> str:
    """A name, whoever gave it, as one value in DICOM: not empty, at most 64 characters, no backslash and no control."""
    return " ".join(_NO_TEXT.sub(" ", name).split())[:64].strip() or "unnamed"
