// Package peer is the hop between members of a cluster: it takes a request that
// one member accepted, its ingress, to the member whose lane it belongs to, its
// owner, and the answer back.
//
// It promises:
//
//   - Order. Requests of one partition that enter at one ingress take their
//     tickets in the order of entering, over reconnects and changes of owner.
//   - Once. A request takes a ticket at most once, and gets exactly one answer.
//     "Not executed" is only ever the owner's word, or said of a request that was
//     never sent.
//   - A slow or stuck member harms only what needs that member.
//
// It does not decide who owns what: Config.Owner says so, and Config.Serve has
// the last word. What keeps the promises is in two files without I/O: outbox.go,
// the ingress's half, and session.go, the owner's, each with its rules and with
// what goes wrong without them. hop.go, conn.go and host.go move their bytes;
// bulk.go moves large bodies; load.go bounds what is on its way. ask.go carries
// questions of operators between members, beside all this.
//
// Why not HTTP: pooled connections put closely spaced requests out of order, a
// third of them or more, and so do streams that get a goroutine each. Here one
// goroutine per connection reads, and takes the ticket before anything
// concurrent happens.
//
// # Wire format
//
// Every connection is dialled by the ingress: members that are ingress for each
// other have two. TLS 1.3, with a certificate on both sides, is below. All
// numbers are big endian. A frame is
//
//	length u32 (of kind and payload) · kind u8 · payload
//
// "text" is a length u16 and bytes, "long" a length u32 and bytes, "member" a
// text (its name) and a u64 (its incarnation). A later version may add fields at
// the end of a frame, and kinds; what a reader does not know it skips.
//
// On a new connection, from the ingress:
//
//	1 HELLO    "LKHOP" · least u16, most u16 (versions) · flags u8 (1: bulk, 2: asks,
//	           and then 1, too: who does not know those takes it for a bulk one)
//	           · cluster text · layout u64 · from member · to member
//	           · stripe u16 · generation u64 · session u64 · got u64
//	           session: the one to go on with, or 0. got: answers read in it
//
// and back, one of
//
//	2 REPLY    version u16 · owner member · session u64 · processed u64
//	           · count u32 · open u64…
//	           session: another one than the HELLO's is new, and nothing is known
//	           of the HELLO's. Else requests above processed were never seen;
//	           open ones wait or run; the answers of all others follow, from
//	           number got+1 on
//	3 REFUSE   why, for people
//
// Then, from the ingress, on an ordered connection:
//
//	4 REQUEST  seq u64 · partition u32 · flags u8 (4: first) · patience u32 ms
//	           · class u8 · flags u8 (1: to HEAD, 2: bulk, 8: strict, 16: turn, 32: identity, 64: sequence, 128: effect)
//	           · ticket 16 · holder 16 · identity's id 32 and print 32, if it has one
//	           · flags u8 (1: identity is of this) · producer text · epoch u64 · number u64, if it has one
//	           · max_depth u32 · max_bytes u32 · max_shared u32 · max_response u32
//	           · retries u32 · upstream_timeout u32 ms · hold_for u32 ms
//	           · key long · route text · effect, if it is flagged · head long
//	           · body size u32 · body
//	           An effect: kind text · on 32 · rules u16 · each: flags u8 (1: anything)
//	           · status u16 · kind text
//	5 CANCEL   seq u64
//	6 CONFIRM  answers read u64, in all
//	7 PING     answered by PONG, with ADMITTED before it if there is news
//	8 CONTROL  a message between the members' tables of owners
//	17 NOTE    a message between the members' edges, about a turn that is lent
//
// and back:
//
//	9 ADMITTED seq u64: every request up to it has a ticket, unless answered
//	           before. It comes with the next answer or PONG, for bulk at once
//	10 MOVED   seq u64 · owner member (perhaps none) · epoch u64: an answer
//	11 RESPONSE seq u64 · flags u8 (1: stream, 2: unknown, 4: spills, 8: status) · lane wait u32 µs
//	           · upstream time u32 µs · problem text · detail text
//	           · retry after u32 ms · depth u32 · status u16, if it is flagged
//	           · head long · body: an answer
//	12 PONG
//
// Durations are what is left, so that clocks need not agree. On a bulk
// connection, one transfer after the other:
//
//	13 BODY    stripe u16 · seq u64 · size u32, and then size bytes outside any
//	           frame; answered by END(1) when they have arrived
//	14 FETCH   stripe u16 · seq u64 · 0 u32; answered by DATA and END
//	15 DATA    bytes, at most 64 KiB
//	16 END     u8: 1 = whole, 0 = broken off
//
// On a connection for questions, if the REPLY's version is 2 or higher, one after the other:
//
//	18 ASK     method text · target long · body long: a request to the admin API, at most
//	           64 KiB. A member answers 16 at once and refuses more, takes 15 s for one, and is
//	           waited for as long as who asks has patience, which is about 1 s
//	19 TOLD    status u16 · type text · body long, at most 4 MiB: else status 507
//
// # What it costs
//
// A forwarded request crosses eight ends of sockets, a local one four. While cores
// are idle, nearly all of either's cost is the kernel's: for the system calls, and
// for waking who reads. So a forwarded request costs at least twice as much then,
// and was measured at three times: 60 and 180 µs at 5000 requests per second on two
// cores. When they are busy many frames share a write, and it is 40 µs for both nodes
// against 20. Of the ingress's half, two thirds are its client's request and answer,
// which a local one pays as well; of the owner's, two fifths are the service's call.
// TLS takes 3 µs of the whole. The rest are the two frames, made, read and kept until
// they are confirmed, three changes of goroutine, and the collection of what was
// allocated for it.
//
// Tried, and not worth it: to write at once, without waking the writer, what comes
// alone. That saved a twentieth of the CPU of an idle cluster, and nothing of a busy
// one's.
//
// # Locks
//
// Stripe (outbox and links) and hosted (session) each have a mutex; neither is
// held while the other is taken. Config.Serve is called under the session's,
// Local.AdmitHere and Config.Owner under the stripe's; all may take locks of
// lanes. Nothing blocks under either, and nothing else of this package is locked
// under them. View and Stop hold Hop's mutex while readers end, so what readers
// call (Serve, Control) must not wait for either of the two.
package peer
