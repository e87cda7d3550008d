# The services of contrib/examples/signup in trouble, for what finds it: email hangs, points gets no answer, log rejects, and
# email had a channel that it has no more.
set -e
cp "$REPOSITORY"/contrib/examples/signup/*.py .
sed -i 's/time_limit=2,/time_limit=600,/' email_service.py
sed -i -e 's/^from busworker import Bus, Message/&, RetryPolicy/' -e 's/(user_registered)$/(user_registered, retry=RetryPolicy(delays=(30,)))/' \
    -e 's/^    record(message)/    raise ConnectionError("no answer")/' points_service.py
sed -i -e 's/^from busworker import Bus, .*/&, Reject/' -e 's/^    record(message)/    raise Reject("no such table")/' log_service.py

cp email_service.py without.py
cat >> email_service.py <<'END'


@bus.channel("campaign").subscribe(user_registered)
def add_to_campaign(event: UserRegistered) -> None: ...
END
busworker start email_service > /dev/null 2>&1 &
timeout 30 sh -c 'until busworker health --service email > /dev/null 2>&1; do sleep 0.05; done'
busworker stop --service email > /dev/null
mv without.py email_service.py
