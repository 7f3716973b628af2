package configs

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMissingIsWhatWasLookedFor: each check of test.sh reports the package that it looked for,
// and nothing that another one looks for. Mutant: the check for the jar of JDBC reports
// prometheus as well.
func TestMissingIsWhatWasLookedFor(t *testing.T) {
	text, err := os.ReadFile("../test.sh")
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(regexp.MustCompile(`(?m)^packages=\((.*)\)$`).FindStringSubmatch(string(text))[1])
	checks := regexp.MustCompile(`(?m)^\[ -e .*missing\+=\((.*)\)$`).FindAllStringSubmatch(string(text), -1)
	if len(checks) < 3 {
		t.Fatalf("there are %d checks of files: are they still written so?", len(checks))
	}
	for _, m := range checks {
		if !slices.Contains(packages, m[1]) {
			t.Errorf("%s: %q is no package that is installed", m[0], m[1])
		}
	}
}
