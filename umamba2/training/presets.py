"""What plans and folders are called in training."""

from __future__ import annotations

PLANNER = "nnUNetPlannerResEncL_torchres"
PLANS = "nnUNetResEncUNetLPlans_torchres"  # what that planner calls its plans file
CONFIGURATION = "3d_umamba2"  # what `umamba2 plan` adds to it
# Preprocessed cases without labels lie beside the labelled ones' folder (its name plus this), because nnU-Net takes
# every case of that folder for a labelled one.
UNLABELLED_SUFFIX = "_unlabelled"
