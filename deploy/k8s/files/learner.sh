# Runs the learner as a Job's program. Kubernetes takes exit code 0 for "done", also of a pod that it evicts; so a learner that
# was asked to end, has saved and leaves with 0 becomes 143 here, and the Job starts another one that goes on from there.
asked=
"$@" &
child=$!
trap 'asked=1; kill -TERM "$child" 2>/dev/null' TERM INT
code=0
wait "$child" || code=$?
# A signal ends `wait`, not the learner.
while [ -n "$asked" ] && kill -0 "$child" 2>/dev/null; do
  wait "$child" || :
done
[ -z "$asked" ] || exit 143
exit "$code"
