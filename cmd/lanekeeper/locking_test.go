package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/redis/rueidis"
	"github.com/valyala/fasthttp"

	"lanekeeper/loadtest"
	"lanekeeper/lock"
	"lanekeeper/lock/etcd"
	"lanekeeper/lock/redis"
	"lanekeeper/lock/zk"
)

// This file is what is built without lanekeeper: a service that takes a lock in a store
// for each request.

// taking takes the lock of a key, and returns what gives it back.
type taking func(ctx context.Context, key string) (release func(), err error)

// opening connects with a store of locks. end disconnects.
type opening func(store string) (take taking, end func(), err error)

// locks are the ways to lock, each with the kind of its store.
var locks = map[string]struct {
	open  opening
	store string
}{
	"plain-redis": {plainRedis, "redis"},
	"zookeeper":   {zooKeeperLock, "zookeeper"},
	"etcd":        {etcdLock, "etcd"},
}

// serveLocking takes the lock of each request's X-Order-Id, which may be none, hands the
// request to the service, and gives the lock back. It numbers the requests as they reach
// it, for who judges their order.
func serveLocking(listener net.Listener, service string, take taking) {
	var tickets loadtest.Tickets
	client := &fasthttp.Client{MaxConnsPerHost: 1024, MaxIdemponentCallAttempts: 1}
	server := &fasthttp.Server{NoDefaultServerHeader: true, Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.Request.Header.Set("Lanekeeper-Ticket", tickets.Next())
		release, err := take(context.Background(), string(ctx.Request.Header.Peek("X-Order-Id")))
		if err != nil {
			ctx.Error(err.Error(), 500)
			return
		}
		defer release()
		request := fasthttp.AcquireRequest()
		defer fasthttp.ReleaseRequest(request)
		ctx.Request.Header.CopyTo(&request.Header)
		request.SetRequestURI(service + string(ctx.Path()))
		request.SetBodyRaw(ctx.PostBody())
		if err := client.Do(request, &ctx.Response); err != nil {
			ctx.Error(err.Error(), 502)
		}
	}}
	server.Serve(listener) //nolint:errcheck // it ends with the listener
}

// plainRedis is the lock of most recipes: SET NX with a random value, another try in a
// moment, and compare-and-delete. The moment is short, to its advantage.
func plainRedis(store string) (taking, func(), error) {
	unlock := rueidis.NewLuaScript(`if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end return 0`)
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{store}, ForceSingleClient: true, DisableCache: true})
	if err != nil {
		return nil, nil, err
	}
	take := func(ctx context.Context, key string) (func(), error) {
		name, value := "lock:"+key, rand.Text()
		for {
			err := client.Do(ctx, client.B().Set().Key(name).Value(value).Nx().PxMilliseconds(10_000).Build()).Error()
			if err == nil {
				break
			}
			if !rueidis.IsRedisNil(err) {
				return nil, err
			}
			time.Sleep(2*time.Millisecond + time.Duration(value[0])*time.Microsecond*8) // and some jitter
		}
		return func() { unlock.Exec(ctx, client, []string{name}, []string{value}) }, nil
	}
	return take, client.Close, nil
}

// The others have queues in the store that wake who is next.

func redisLock(store string) (taking, func(), error) {
	return takingFrom(func(ctx context.Context) (lock.Locker, error) {
		return redis.Open(ctx, redis.Config{Address: store, Prefix: "bench", TTL: 10 * time.Second, Margin: time.Second, Log: slog.New(slog.DiscardHandler)})
	})
}

func zooKeeperLock(store string) (taking, func(), error) {
	return takingFrom(func(ctx context.Context) (lock.Locker, error) {
		return zk.Open(ctx, zk.Config{Servers: []string{store}, Prefix: "/bench", TTL: 9 * time.Second, Margin: time.Second, Log: slog.New(slog.DiscardHandler)})
	})
}

func etcdLock(store string) (taking, func(), error) {
	return takingFrom(func(ctx context.Context) (lock.Locker, error) {
		return etcd.Open(ctx, etcd.Config{Endpoints: []string{store}, Prefix: "bench/", TTL: 10 * time.Second, Margin: time.Second, Log: slog.New(slog.DiscardHandler)})
	})
}

func takingFrom(open func(context.Context) (lock.Locker, error)) (taking, func(), error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	locker, err := open(ctx)
	if err != nil {
		return nil, nil, err
	}
	take := func(ctx context.Context, key string) (func(), error) {
		lease, err := locker.Acquire(ctx, "k"+key)
		if err != nil {
			return nil, fmt.Errorf("acquire: %w", err)
		}
		return func() { lease.Release(ctx) }, nil
	}
	return take, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		locker.Close(ctx)
	}, nil
}
