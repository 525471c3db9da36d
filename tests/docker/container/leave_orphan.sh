# Leave a process behind and wait until it is gone altogether, zombie included; exit code 7 then, else 1.
orphan=$( (sleep 0.1 >/dev/null & echo $!) )
for attempt in $(seq 300); do
    [ -e /proc/$orphan ] || { echo 'error: none left' >&2; exit 7; }
    sleep 0.1
done
exit 1
