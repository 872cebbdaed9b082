"""One of several processes that train together on CPUs, over gloo, as nnU-Net's DDP does over NCCL on GPUs.

    python distributed_training.py RANK PROCESSES PORT TRAINER FOLD WEIGHTS

Leaves its weights in WEIGHTS. The environment is that of `toy_training.settings`.
"""

import os
import sys

import torch
import torch.distributed as dist
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from toy_training import make_trainer


def main(rank: str, processes: str, port: str, name: str, fold: str, weights: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    MetaLogger.plot_progress_png = lambda *_: None  # it takes seconds
    dist.init_process_group("gloo", rank=int(rank), world_size=int(processes))
    trainer = make_trainer(name, fold if fold == "all" else int(fold))
    trainer.run_training()
    torch.save(
        {
            "weights": trainer.bare_network.state_dict(),
            "losses": trainer.logger.get_value("train_losses", step=None),
            "micro-batches": (trainer.batch_size, trainer.accumulate),
        },
        weights,
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
