#!/bin/sh
# A virtual environment for each peer, so that no peer's requirements touch oatmill's or another's.
#
#   benchmarks/peers/setup.sh FOLDER [PEER...]     peers: stable-baselines3 sample-factory cleanrl reverb rllib torchrl; all without names
#
#   PYTHON           the interpreter: python3.11 (dm-reverb 0.14 has no wheels for later ones)
#   METTAGRID        for Sample Factory's cogs: mettagrid==0.26.22; it must be the version that oatmill has
#   TORCH_INDEX_URL  an index to take torch from instead of pip's own, as in the Makefile
#
# torch comes first and is then held, so that no peer brings CUDA along on a machine without a GPU.
set -eu

TORCH="${TORCH:-torch==2.13.*}"
METTAGRID="${METTAGRID:-mettagrid==0.26.22}"
PYTHON="${PYTHON:-python3.11}"
folder="${1:?usage: benchmarks/peers/setup.sh FOLDER [PEER...]}"
shift
[ $# -gt 0 ] || set -- stable-baselines3 sample-factory cleanrl reverb rllib torchrl
mkdir -p "$folder"

for peer in "$@"; do
  venv="$folder/$peer"
  pip="$venv/bin/python -m pip --disable-pip-version-check install --quiet"
  echo "installing $peer into $venv"
  "$PYTHON" -m venv "$venv"
  held="$venv/held.txt"
  : > "$held"
  if [ "$peer" != reverb ]; then
    $pip ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$TORCH"
    "$venv/bin/python" -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' > "$held"
  fi
  case "$peer" in
    stable-baselines3) $pip -c "$held" stable-baselines3==2.9.* psutil ;;
    sample-factory)
      $pip -c "$held" sample-factory==2.1.1 psutil 'setuptools<81'
      # MettaGrid asks for later versions of NumPy and Gymnasium than Sample Factory allows, and does without: so what of it the
      # simulations import is named here, with what oatmill's environment and encoder import.
      $pip --no-deps "$METTAGRID"
      $pip -c "$held" importnb lz4 'numpy<2' 'pydantic>=2.12' pyyaml 'ale-py==0.10.*' opencv-python-headless ;;
    cleanrl) $pip -c "$held" envpool==0.8.4 gym==0.23.1 'numpy<2' tensorboard tyro ;; # what its script imports
    reverb) $pip dm-reverb==0.14.0 tensorflow-cpu==2.14.* 'numpy<2' psutil 'setuptools<81' ;;
    rllib) $pip -c "$held" 'ray[rllib]==2.60.*' psutil 'ale-py==0.11.*' opencv-python-headless ;;
    torchrl) $pip -c "$held" torchrl==0.14.* gymnasium psutil ;;
    *) echo "unknown peer $peer: stable-baselines3, sample-factory, cleanrl, reverb, rllib, torchrl" >&2; exit 2 ;;
  esac
done
