package proxy_test

import (
	"net"
	"os"
	"testing"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(childVariable); what != "" {
		runChild(what)
		return
	}
	warm()
	goleak.VerifyTestMain(m,
		// fasthttp's cleaners sleep once more before they see that there is
		// nothing to clean.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*TCPDialer).tcpAddrsClean"))
}

// warm starts what fasthttp starts once per process, before any bubble could
// own it.
func warm() {
	listener := fasthttputil.NewInmemoryListener()
	server := fasthttp.Server{Handler: func(*fasthttp.RequestCtx) {}}
	go server.Serve(listener)
	client := fasthttp.HostClient{Addr: "warm", Dial: func(string) (net.Conn, error) { return listener.Dial() }}
	client.Get(nil, "http://warm/")
	client.CloseIdleConnections()
	server.Shutdown()
}
