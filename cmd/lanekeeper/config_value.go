package main

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Duration is a time.Duration that is written with its unit: 500ms, 5s, 1m30s.
// A bare number is refused, since half of all readers take it for seconds and
// the other half for milliseconds; only 0 needs no unit.
type Duration time.Duration

// Size is a number of bytes that is written with its unit: 64KiB, 1MiB.
// Only binary units exist: 1MB would be a different number to everyone.
type Size int64

// The units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

// What the text of a value looks like; the schema carries the same expressions.
const (
	durationPattern = `^([0-9]+(\.[0-9]+)?(h|m|s|ms))+$`
	sizePattern     = `^[0-9]+(B|KiB|MiB|GiB)$`
	integerPattern  = `^(0|[1-9][0-9]*)$`
	decimalPattern  = `^(0|[1-9][0-9]*)(\.[0-9]+)?$`
)

var (
	durationText = regexp.MustCompile(durationPattern)
	sizeText     = regexp.MustCompile(sizePattern)
	integerText  = regexp.MustCompile(integerPattern)
	decimalText  = regexp.MustCompile(decimalPattern)
	bareNumber   = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
)

// UnmarshalText reads a duration in whole milliseconds.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	switch {
	case s == "0":
		*d = 0
		return nil
	case bareNumber.MatchString(s):
		return fmt.Errorf("%s has no unit: write %ss for seconds, or use ms, m, h", s, s)
	case !durationText.MatchString(s):
		return fmt.Errorf("%q is not a duration: write one like 500ms, 5s or 1m30s", s)
	}
	parsed, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%s is too long for a duration", s)
	}
	if parsed%time.Millisecond != 0 {
		return fmt.Errorf("%s is finer than a millisecond", s)
	}
	*d = Duration(parsed)
	return nil
}

// MarshalText writes the duration as UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is time.Duration's without the zero units at its end: 5m, not 5m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// UnmarshalText reads a number of bytes with its unit.
func (s *Size) UnmarshalText(text []byte) error {
	t := string(text)
	switch {
	case t == "0":
		*s = 0
		return nil
	case bareNumber.MatchString(t):
		return fmt.Errorf("%s has no unit: write %sB for bytes, or use KiB, MiB, GiB", t, t)
	case !sizeText.MatchString(t):
		return fmt.Errorf("%q is not a size: write a whole number and one of B, KiB, MiB, GiB, like 64KiB", t)
	}
	digits, unit := strings.TrimRight(t, "BKMGi"), Size(1)
	switch t[len(digits):] {
	case "KiB":
		unit = KiB
	case "MiB":
		unit = MiB
	case "GiB":
		unit = GiB
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64/int64(unit) {
		return fmt.Errorf("%s is too large for a size", t)
	}
	*s = Size(n) * unit
	return nil
}

// MarshalText writes the size as UnmarshalText reads it.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String uses the largest unit that leaves a whole number.
func (s Size) String() string {
	switch {
	case s != 0 && s%GiB == 0:
		return fmt.Sprintf("%dGiB", s/GiB)
	case s != 0 && s%MiB == 0:
		return fmt.Sprintf("%dMiB", s/MiB)
	case s != 0 && s%KiB == 0:
		return fmt.Sprintf("%dKiB", s/KiB)
	}
	return fmt.Sprintf("%dB", int64(s))
}

var (
	durationType = reflect.TypeFor[Duration]()
	sizeType     = reflect.TypeFor[Size]()
)

// parseValue reads the text of a single value into type t. Every value comes
// through here, from the file, the environment or a flag, so that one spelling
// means one thing.
func parseValue(t reflect.Type, text string) (any, error) {
	switch {
	case t == durationType:
		var d Duration
		err := d.UnmarshalText([]byte(text))
		return d, err
	case t == sizeType:
		var s Size
		err := s.UnmarshalText([]byte(text))
		return s, err
	case t.Kind() == reflect.Int:
		if !integerText.MatchString(text) {
			return nil, fmt.Errorf("want a whole number, got %q", text)
		}
		n, err := strconv.ParseInt(text, 10, 32) // 32: no count needs more, and sums of two cannot overflow
		if err != nil {
			return nil, fmt.Errorf("%s is too large: at most %d", text, math.MaxInt32)
		}
		return int(n), nil
	case t.Kind() == reflect.Float64:
		if !decimalText.MatchString(text) { // no exponents, no infinities, and nothing that is no number
			return nil, fmt.Errorf("want a number like 0.5, got %q", text)
		}
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is too large", text)
		}
		return n, nil
	case t.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			return nil, fmt.Errorf("want true or false, got %q", text)
		}
		return text == "true", nil
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return nil, fmt.Errorf("%q has a character that does not print", text)
	}
	return text, nil
}

// check says what is wrong with the text of the field's value, or of an
// element of the field's list, as far as the field alone can tell.
func (f field) check(text string) error {
	t := f.element()
	value, err := parseValue(t, text)
	if err != nil {
		return err
	}
	if words := strings.Fields(f.tag.Get("enum")); len(words) > 0 && !slices.Contains(words, text) {
		if t.Kind() == reflect.Int {
			return fmt.Errorf("%s is not one of %s", text, strings.Join(words, ", "))
		}
		return fmt.Errorf("%q is not one of %s%s", text, strings.Join(words, ", "), didYouMean(text, words))
	}
	if pattern := f.tag.Get("pattern"); pattern != "" && !regexp.MustCompile("^(?:"+pattern+")$").MatchString(text) {
		return fmt.Errorf("%q does not match %s", text, pattern)
	}
	if least := f.tag.Get("min"); least != "" && compareValues(value, f.bound("min")) < 0 {
		return fmt.Errorf("%s is too small: at least %s", text, least)
	}
	if most := f.tag.Get("max"); most != "" && compareValues(value, f.bound("max")) > 0 {
		return fmt.Errorf("%s is too large: at most %s", text, most)
	}
	return nil
}

// bound is the value of the tag min or max.
func (f field) bound(tag string) any {
	bound, err := parseValue(f.element(), f.tag.Get(tag))
	if err != nil {
		panic(fmt.Sprintf("config: the %s of %s cannot be read: %v", tag, f.name, err))
	}
	return bound
}

// compareValues orders two values of one type, both numbers of some kind.
func compareValues(a, b any) int {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	if x.CanFloat() {
		return cmp.Compare(x.Float(), y.Float())
	}
	return cmp.Compare(x.Int(), y.Int())
}
