package loadtest

import (
	"context"
	"net"
	"time"
)

// Noise is how often requests on different connections overtake each other with
// nothing in between: what the kernel and the scheduler do by themselves.
type Noise struct {
	Swapped  int
	Compared int
}

// Share is the part that swapped, in [0, 1].
func (n *Noise) Share() float64 {
	if n.Compared == 0 {
		return 0
	}
	return float64(n.Swapped) / float64(n.Compared)
}

// MeasureNoise sends traffic straight to a witness of its own that answers at
// once, over loopback, instead of to its targets. Do it beside the run it is
// for: the floor depends on what else the machine does.
func MeasureNoise(ctx context.Context, traffic Traffic) (*Noise, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	history := NewHistory(NewClock(), traffic.withDefaults().total()+1)
	witness, err := NewWitness(WitnessConfig{}, history)
	if err != nil {
		listener.Close()
		return nil, err
	}
	traffic.Targets = []string{"http://" + listener.Addr().String()}
	traffic.Dial, traffic.Clock, traffic.Progress = nil, history.Clock(), nil
	if err := witness.Start(listener); err != nil {
		return nil, err
	}
	result, err := traffic.Run(ctx)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	witness.Stop(stop)
	if err != nil {
		return nil, err
	}
	evidence := history.Evidence()
	evidence.Sent = result.Sent
	report := Check(evidence, Rules{})
	return &Noise{Swapped: report.Count(SendSwap), Compared: report.Judged(SendSwap)}, nil
}
