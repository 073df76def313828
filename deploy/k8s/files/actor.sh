# Runs an actor as a Deployment's program. An actor that was not asked to end and leaves with 0 was told by the hub that the run is
# over. A Deployment starts every container again that ends, so this one waits until its pod is deleted.
asked=
child=
trap 'asked=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
"$@" &
child=$!
[ -z "$asked" ] || kill -TERM "$child" 2>/dev/null  # asked before the child was known
code=0
wait "$child" || code=$?
# A signal ends `wait`, not the actor.
while [ -n "$asked" ] && kill -0 "$child" 2>/dev/null; do
  code=0
  wait "$child" || code=$?
done
[ -z "$asked" ] && [ "$code" -eq 0 ] || exit "$code"
echo "the run is over; this pod waits until it is deleted" >&2
while [ -z "$asked" ]; do
  touch "$OATMILL_HEARTBEAT"  # or the probe would end it
  sleep 5 &
  child=$!
  wait "$child" || :
done
