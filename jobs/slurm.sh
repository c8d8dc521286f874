#!/usr/bin/env bash
# How does any of raylens' verbs run on a cluster of SLURM's, as tune does here on four nodes?
#   sbatch --nodes 4 --gpus-per-node 4 jobs/slurm.sh tune adda --from jobs/adda.yaml --storage /shared/runs --name adda
# From a folder that all nodes see, after `uv sync` there. Ray is started on every node, the verb on the first, and all end
# with it; nodes are the job's own, for Ray's end is the end of every Ray on them. After the time limit the same command
# goes on. Not run yet under SLURM, but on one machine with programs in place of srun and scontrol.
#SBATCH --job-name=raylens
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
set -euo pipefail

export PATH="$PWD/.venv/bin:$PATH" RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(openssl rand -hex 32)   # Ray runs whatever it is sent, and a node's ports are open to its neighbours
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")   # not through head, which may close the pipe on it
address=${hosts%%$'\n'*}:6379
verb=$1
shift
exec srun ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  -- env RAY_ADDRESS="$address" python -m "raylens.$verb" "$@"
