package ring_test

import (
	"fmt"

	"lanekeeper/ring"
)

// Every node that knows these three members sends order 7 the same way. When
// its target leaves, the order gets another; an order of a member that stays
// does not notice.
func Example() {
	layout := ring.DefaultLayout("shop")
	now, err := ring.New(layout, []ring.Member{{Name: "node-3"}, {Name: "node-1"}, {Name: "node-2"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	leaver := now.Target(layout.Partition([]byte("order:7"))).Name
	then, err := now.Without(leaver)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("without", leaver)
	for _, key := range []string{"order:7", "order:10", "order:11"} {
		p := layout.Partition([]byte(key))
		fmt.Printf("%s in partition %4d: %s, then %s\n", key, p, now.Target(p).Name, then.Target(p).Name)
	}
	// Output:
	// without node-3
	// order:7 in partition 1425: node-3, then node-2
	// order:10 in partition 1451: node-1, then node-1
	// order:11 in partition  128: node-1, then node-1
}
