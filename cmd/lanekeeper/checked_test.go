package main

import (
	"testing"
	"time"

	"lanekeeper/loadtest"
)

// TestTheCheckerFailsOthers has the checker judge what many have in lanekeeper's place,
// under load that several requests of a key are waiting in: nginx, which takes replicas in
// turn and lets them overlap; and a lock in Redis for each request, which does not, but
// gives the turn to whoever asks at the right moment. Beside them lanekeeper, which
// passes, so that it is not the load.
func TestTheCheckerFailsOthers(t *testing.T) {
	service, history := startWitness(t, loadtest.WitnessConfig{Delay: 2 * time.Millisecond, Jitter: 4 * time.Millisecond})
	for _, test := range []struct {
		contender *contender
		seen      loadtest.Kind
	}{
		{startNginxAs(t, "nginx, replicas in turn", "", service), loadtest.Overlap},
		{startLocking(t, perLock[0], "plain-redis", service), loadtest.TicketInversion},
		{startAlone(t, alone, service), ""},
	} {
		t.Run(test.contender.name, func(t *testing.T) {
			history.Reset()
			traffic := loadtest.Traffic{Targets: test.contender.targets, Clock: history.Clock(), Mode: loadtest.Closed, Keys: 4, Connections: 32, Requests: 800}
			result, err := traffic.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			evidence := history.Evidence()
			evidence.Sent = result.Sent
			report := loadtest.Check(evidence, loadtest.Rules{})
			t.Logf("\n%s", report)
			if result.OK != traffic.Requests || report.Executions != traffic.Requests {
				t.Errorf("statuses %v, %d executions", result.Statuses(), report.Executions)
			}
			if report.OK() != (test.seen == "") || test.seen != "" && report.Count(test.seen) == 0 {
				t.Errorf("want findings of %q alone", test.seen)
			}
			for _, f := range report.Findings {
				if f.Verdict && f.Count > 0 && f.Kind != test.seen {
					t.Errorf("%s, which it does not do", f.Kind)
				}
			}
		})
	}
}
