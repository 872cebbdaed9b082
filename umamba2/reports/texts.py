"""Every text that a reader of a report sees. To have reports in another language, translate this file and no other.

Braces are filled in. A list of teeth is a list of FDI numbers, which are the same everywhere.
"""

from __future__ import annotations

LANGUAGE = "en"

# Structures and groups are called as in the table of anatomy, unless they have another name here.
NAMES: dict[str, str] = {}

# Volumes: in mm^3 up to ten thousand, then in ml.
CUBIC_MM, ML = "{:,.0f} mm³", "{:,.1f} ml"
SMALL_CUBIC_MM = "{:,.1f} mm³"

# Views of the surfaces and planes of the slices
FROM_RIGHT, FROM_FRONT, FROM_LEFT = "from the right", "from the front", "from the left"
FROM_BELOW, FROM_ABOVE = "upper arch, from below", "lower arch, from above"
AXIAL, CORONAL, SAGITTAL = "axial", "coronal", "sagittal"

# The page
TITLE = "Segmentation report"
SIZE = "{0[0]} × {0[1]} × {0[2]} voxels of {1[0]:.3g} × {1[1]:.3g} × {1[2]:.3g} mm"
EXTENT = "{:.0f} × {:.0f} × {:.0f} mm in all"
NUMBERING = "{}, ids: {}"
CHECK = "Check:"
NO_WARNINGS = "No warnings."
OVERVIEW, TEETH, SLICES, STRUCTURES = "Overview", "Teeth", "Slices", "Structures"
SURFACES_SEEN = "The structures seen {}"
NOT_FOUND, NOT_JUDGED = "not found", "not judged"
CHART_HINT = "FDI numbers. Coloured: found. Dashed: not found. Grey: not judged, as the scan may not show its place."
SHOW_STRUCTURES, SHOW_TRUTH = "structures", "ground truth (dashed)"
SLICE = "{} slice, {}"
SCALE = "1 cm"
RIGHT, LEFT = "R", "L"
MARKS = "R right, L left, A front, P back, S top, I bottom of the patient."
TILTED = "The scan is turned by {:.0f}° against the patient's axes; marks name the nearest."
NO_MARKS = "The image does not state its orientation, so sides are not marked."
VOXEL_INDICES = "x, y and z count voxels of the file, from 0."
ID, VOLUME, DICE, HD95_VOXELS, HD95_MM = "id", "volume", "Dice", "HD95 voxels", "HD95 mm"
ONLY_IN_TRUTH = "(only in the ground truth)"
VOLUMES_ARE = "Volumes are counts of voxels times the volume of a voxel."
SCORES_ARE = "Dice and HD95, the 95th percentile of the distances between the surfaces, as in ToothFairy3."
CHECKS_ARE = "Checks compare with typical anatomy; they neither find nor exclude disease."
RESEARCH_ONLY = "Research software, not a medical device; not for diagnosis or treatment."

# Remarks
TOOTH = "{} ({})"
MANY_TEETH_AT_ONCE = "These classes hold many teeth at once, so sizes and sides were not checked."
NO_ORIENTATION = "The image does not state its orientation: sides and heights were not checked."
NO_TOOTH = "No tooth was found."
NO_TOOTH_IN_JAW = {"upper": "No upper tooth was found.", "lower": "No lower tooth was found."}
MISSING = {"upper": "Missing upper teeth: {}.", "lower": "Missing lower teeth: {}."}
NO_WISDOM_TOOTH = {"upper": "No upper wisdom tooth {}.", "lower": "No lower wisdom tooth {}."}
LARGE = "{} is large: {}, expected at most {}."
SMALL = "{} is small: {}, expected at least {}."
AT_BORDER = "At the edge of the scan, so volumes may be incomplete: {}."
SIDES_SWAPPED = "Left and right are mixed up: {} lies to the right of {}."
WRONG_SIDE = {
    "left": "Left and right are mixed up: {} belongs to the left but lies on the right.",
    "right": "Left and right are mixed up: {} belongs to the right but lies on the left.",
}
MIRRORED = (
    "Left and right are mixed up throughout: every left structure lies to the right of its partner. "
    "Either the labels or the orientation that the image states are mirrored."
)
JAWS_SWAPPED = "Upper and lower are mixed up: {} lies below {}."
UPSIDE_DOWN = (
    "Upper and lower are mixed up throughout: either the labels or the orientation that the image states are "
    "upside down."
)
CHANGED = "Changed after the network: {}."
TRUTH_ALONE = "Only in the ground truth: {}."
LABELS_ALONE = "Only in the segmentation: {}."


def name(of: str) -> str:
    """What readers call a structure or a group of structures."""
    return NAMES.get(of, of)


def volume(mm3: float) -> str:
    """A volume in mm^3 for reading."""
    return (SMALL_CUBIC_MM if mm3 < 100 else CUBIC_MM).format(mm3) if mm3 < 10_000 else ML.format(mm3 / 1000)
