package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// Mutants: the second member taken in place of an error; key.Raw compared;
// json.Valid left out; EqualFold replaced by ==; RuneError let through.
func TestJSONMembers(t *testing.T) {
	const absent, ambiguous, invalid, broken = "(absent)", "(ambiguous)", "(invalid)", "(broken)"
	for _, test := range []struct{ path, body, want string }{
		// Values.
		{"id", `{"id":"7"}`, "7"},
		{"id", `{"id":7}`, "7"},
		{"id", " {\t\"id\" :\r\n7 } ", "7"},
		{"id", `{"id":-7}`, "-7"},
		{"id", `{"id":0}`, "0"},
		{"id", `{"id":18446744073709551617}`, "18446744073709551617"},
		{"id", `{"id":"18446744073709551617"}`, "18446744073709551617"},
		{"id", `{"id":-0}`, invalid},
		{"id", `{"id":7.0}`, invalid},
		{"id", `{"id":1e3}`, invalid},
		{"id", `{"id":1E3}`, invalid},
		{"id", `{"id":null}`, invalid},
		{"id", `{"id":true}`, invalid},
		{"id", `{"id":false}`, invalid},
		{"id", `{"id":{}}`, invalid},
		{"id", `{"id":[7]}`, invalid},
		{"id", `{"id":""}`, ""},
		{"id", `{"id":" 7 "}`, " 7 "},
		{"id", `{"id":"007"}`, "007"},
		{"id", `{"id":"\u0037"}`, "7"},
		{"id", `{"id":"a\/\"\\\b\f\n\r\tb"}`, "a/\"\\\b\f\n\r\tb"},
		{"id", `{"id":"\u00e9\u00E9é"}`, "ééé"},
		{"id", `{"id":"\ud83d\ude00"}`, "😀"},
		{"id", `{"id":"\u0000"}`, "\x00"},
		{"id", `{"id":"\ud83d"}`, invalid},
		{"id", `{"id":"\ude00\ud83d"}`, invalid},
		{"id", `{"id":"\ud83dx"}`, invalid},
		{"id", `{"id":"\ufffd"}`, invalid},
		{"id", "{\"id\":\"\xff\"}", invalid},
		{"id", "{\"id\":\"\xed\xa0\xbd\"}", invalid},
		// Names.
		{"id", `{"\u0069d":7}`, "7"},
		{"id", `{"ID":7}`, ambiguous},
		{"id", `{"id":7,"Id":8}`, ambiguous},
		{"id", `{"Id":8,"id":7}`, ambiguous},
		{"id", `{"id":7,"id":8}`, ambiguous},
		{"id", `{"id":7,"id":7}`, ambiguous},
		{"id", `{"id":7,"\u0069\u0064":8}`, ambiguous},
		{"id", `{"id":7,"id\u0000x":8}`, ambiguous},
		{"id", `{"id":7,"id\ud800":8}`, ambiguous},
		{"id", `{"id":7,"i\rd":8}`, ambiguous},
		{"id", "{\"id\":7,\"id\xff\":8}", ambiguous},
		{"id", `{"id":7,"_id":"mongo"}`, "7"},
		{"id", `{"id":7,"ids":8,"i":9,"":10}`, "7"},
		{"order_id", `{"order_id":7,"orderId":8}`, ambiguous},
		{"orderId", `{"order_id":7}`, ambiguous},
		{"order-id", `{"order-id":7}`, "7"},
		{"ſ", `{"s":7}`, ambiguous}, // Go's decoder folds like this
		{"s", `{"S":7}`, ambiguous},
		{"k", `{"\u212a":7}`, ambiguous},
		{"a b", `{"a b":7}`, "7"},
		// Paths.
		{"a.b.c", `{"a":{"b":{"c":7}}}`, "7"},
		{"a.b", `{"a":{"b":7},"b":8}`, "7"},
		{"a.b", `{"b":8,"a":{}}`, absent},
		{"a.b", `{"a":7}`, absent},
		{"a.b", `{"a":null}`, absent},
		{"a.b", `{"a":"{\"b\":7}"}`, absent},
		{"a.b", `{"a":{"b":7},"a":{"b":8}}`, ambiguous},
		{"a.b", `{"a":{"b":7},"A":{"b":8}}`, ambiguous},
		{"a.b", `{"a":{"b":7,"B":8}}`, ambiguous},
		{"a.b", `{"a":{"b":7},"c":{"b":8,"b":9}}`, "7"}, // nobody looks there
		{`a\.b`, `{"a.b":7,"a":{"b":8}}`, "7"},
		{"a.0.b", `{"a":[{"b":7},{"b":8}]}`, "7"},
		{"a.1.b", `{"a":[ 1 , {"b":8} ]}`, "8"},
		{"a.2.b", `{"a":[{"b":7},{"b":8}]}`, absent},
		{"a.0", `{"a":[]}`, absent},
		{"a.0", `{"a":["x","y"]}`, "x"},
		{"a.1", `{"a":[[1,2],"],",3]}`, "],"},
		{"a.b", `{"a":[{"b":7}]}`, absent},
		{"a.01", `{"a":[7,8]}`, absent},
		{"a.-0", `{"a":[7,8]}`, absent},
		{"a.0", `{"a":{"0":7}}`, "7"},
		{"0", `[7]`, "7"},
		{"id", `7`, absent},
		{"id", `"id"`, absent},
		{"id", `null`, absent},
		{"id", `[]`, absent},
		// What is no JSON.
		{"id", `{"id":7}x`, broken},
		{"id", `{"id":7}{"id":8}`, broken},
		{"id", `{"id":7,}`, broken},
		{"id", `{"id":07}`, broken},
		{"id", `{"id":+7}`, broken},
		{"id", `{"id":NaN}`, broken},
		{"id", `{"id":0x7}`, broken},
		{"id", `{'id':7}`, broken},
		{"id", `{id:7}`, broken},
		{"id", `{"id":7/**/}`, broken},
		{"id", `{"id":"\x37"}`, broken},
		{"id", "{\"id\":\"\t\"}", broken},
		{"id", "\xef\xbb\xbf{\"id\":7}", broken},
		{"id", "{\"id\":7}\x00", broken},
		{"id", `{"id":7`, broken},
		{"id", strings.Repeat("[", 1<<19) + strings.Repeat("]", 1<<19), broken},
		{"id", `{"id":7,"a":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, "7"},
	} {
		value, present, err := jsonMember([]byte("order:"), []byte(test.body), parseJSONPath(test.path))
		got := strings.TrimPrefix(string(value), "order:")
		switch {
		case errors.Is(err, errNotJSON):
			got = broken
		case errors.Is(err, errAmbiguous):
			got = ambiguous
		case err != nil:
			got = invalid
		case !present:
			got = absent
		}
		if got != test.want {
			t.Errorf("%s in %.80s: got %s (%v), want %s", test.path, test.body, got, err, test.want)
		}
	}
}

// A key by index must not cost memory in proportion to the array.
func TestAnArrayIsNotCopied(t *testing.T) {
	body := []byte("[" + strings.Repeat("1,", 1<<16) + "7]")
	path := parseJSONPath("65536")
	if value, _, err := jsonMember(nil, body, path); string(value) != "7" || err != nil {
		t.Fatalf("got %q, %v", value, err)
	}
	buffer := make([]byte, 0, 16)
	if n := testing.AllocsPerRun(5, func() { jsonMember(buffer, body, path) }); n > 5 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzJSONMember compares jsonMember with encoding/json. What it accepts, a
// decoder that takes the last of two members sees, one that takes the first, and
// one that ignores case; and it accepts whatever all of them agree on.
func FuzzJSONMember(f *testing.F) {
	for _, body := range []string{
		`{"order":{"id":"7"}}`, `{"order":{"id":7},"x":[1,{"id":8}]}`, `{"Order":{"id":7},"order":{"ID":8}}`,
		`{"\u006frder":{"\u0069\u0064":"\ud83d\ude00"}}`, `{"order":{"id":1e3}}`, `{"order":{"id":"\ud83d"}}`,
		`{"order":{"id":-0}}`, `{"order":[{"id":7}]}`, "{\"order\":{\"id\":\"\xff\"}}", `{"order":{"id\u0000":1,"id":"\\\""}}`,
		` { "order" : { "a" : "\\" , "id" : 12345678901234567890 } } `, `{"order":{"id":7}}{}`, `{"order":null,"order":{"id":7}}`,
	} {
		f.Add([]byte(body))
	}
	path := parseJSONPath("order.id")
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) == 0 {
			return
		}
		before := bytes.Clone(body)
		value, present, err := jsonMember(nil, body, path)
		if !bytes.Equal(before, body) {
			t.Fatalf("%q was changed to %q", before, body)
		}
		first, firstErr := walkJSON(body, []string{"order", "id"}, false)
		last, lastErr := walkJSON(body, []string{"order", "id"}, true)
		if err == nil && present {
			var document struct{ Order struct{ ID json.RawMessage } }
			if err := json.Unmarshal(body, &document); err != nil {
				t.Fatalf("%q: key %q, but %v", body, value, err)
			}
			var tree map[string]any
			decoder := json.NewDecoder(bytes.NewReader(body))
			decoder.UseNumber()
			if err := decoder.Decode(&tree); err != nil {
				t.Fatal(err)
			}
			order, _ := tree["order"].(map[string]any)
			for name, seen := range map[string]any{
				"the first": first, "the last": last, "any case": scalar(document.Order.ID), "a map": order["id"],
			} {
				if text := textOf(seen); text != string(value) {
					t.Fatalf("%q: key %q, but a decoder that takes %s sees %q", body, value, name, text)
				}
			}
			if !utf8.Valid(value) {
				t.Fatalf("%q: key %q", body, value)
			}
			return
		}
		if err != nil {
			return
		}
		var document struct{ Order struct{ ID json.RawMessage } }
		if json.Unmarshal(body, &document) == nil && document.Order.ID != nil {
			t.Fatalf("%q: absent, but a decoder sees %q", body, document.Order.ID)
		}
		if firstErr == nil && textOf(first) != "" || lastErr == nil && textOf(last) != "" {
			t.Fatalf("%q: absent, but a decoder sees %q or %q", body, textOf(first), textOf(last))
		}
	})
}

// walkJSON takes the first or the last of equal members, by exact name, with the
// standard library's tokens.
func walkJSON(body []byte, path []string, last bool) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if !json.Valid(body) {
		return nil, io.ErrUnexpectedEOF
	}
	if len(path) == 0 {
		err := decoder.Decode(&value)
		return value, err
	}
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("no object")
	}
	err := errors.New("no such member")
	for done := false; decoder.More(); {
		name, _ := decoder.Token()
		var member json.RawMessage
		if err := decoder.Decode(&member); err != nil {
			return nil, err
		}
		if name == path[0] && (last || !done) {
			value, err = walkJSON(member, path[1:], last)
			done = true
		}
	}
	return value, err
}

func scalar(raw json.RawMessage) (value any) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if decoder.Decode(&value) != nil {
		return nil
	}
	return value
}

// textOf is the key that a decoded value stands for, or nothing.
func textOf(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}
