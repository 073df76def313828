# Runs the learner as a Job's program. Kubernetes takes exit code 0 for "done", also of a pod that it evicts; so a learner that
# was asked to end, has saved and leaves with 0 becomes 143 here, and the Job starts another one that goes on from there.
# With several pods, POD_INDEX is set, and each pod starts its RANKS_PER_POD ranks of the whole.
asked=
children=
trap 'asked=1; kill -TERM $children 2>/dev/null' TERM INT
if [ -z "${POD_INDEX:-}" ]; then
  "$@" &
  children=$!
else
  number=0
  while [ "$number" -lt "$RANKS_PER_POD" ]; do
    RANK=$((POD_INDEX * RANKS_PER_POD + number)) LOCAL_RANK=$number "$@" &
    children="$children $!"
    number=$((number + 1))
  done
fi
[ -z "$asked" ] || kill -TERM $children 2>/dev/null  # asked before all children were known
code=0
# When a rank fails, the others fail too, because their collective operations time out.
for child in $children; do
  wait "$child" || code=$?
  # A signal ends `wait`, not the learner.
  while [ -n "$asked" ] && kill -0 "$child" 2>/dev/null; do
    wait "$child" || :
  done
done
[ -z "$asked" ] || exit 143
exit "$code"
