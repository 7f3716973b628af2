package loadtest

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// fasthttp's date goroutine never ends. It is started here, outside every
	// bubble, and is nobody's leak.
	(&fasthttp.ResponseHeader{}).Header()
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

// startWitness serves a witness on loopback until the test ends.
func startWitness(t *testing.T, config WitnessConfig, history *History) (url string) {
	t.Helper()
	w, err := NewWitness(config, history)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, w)
}

func start(t *testing.T, server interface {
	Start(net.Listener) error
	Stop(context.Context) error
}) (url string) {
	t.Helper()
	ln := listen(t)
	if err := server.Start(ln); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, server) })
	return "http://" + ln.Addr().String()
}

func stop(t *testing.T, server interface{ Stop(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}
