package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// secretFile writes a file and returns its name.
func secretFile(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// aSecret is a secret and its line.
func aSecret(fill byte) (secret []byte, line string) {
	secret = make([]byte, secretBytes)
	for i := range secret {
		secret[i] = fill + byte(i)
	}
	return secret, base64.StdEncoding.EncodeToString(secret)
}

// Mutants killed: the order is turned round; a short secret passes; a blank line
// counts; the same secret twice is a rotation.
func TestSecretFiles(t *testing.T) {
	first, firstLine := aSecret(1)
	second, secondLine := aSecret(100)
	for _, test := range []struct {
		name, content string
		want          [][]byte
		wrong         string
	}{
		{"one", firstLine + "\n", [][]byte{first}, ""},
		{"without a line break", firstLine, [][]byte{first}, ""},
		{"two", firstLine + "\n" + secondLine + "\n", [][]byte{first, second}, ""},
		{"as Windows writes them", firstLine + "\r\n\r\n  " + secondLine + "\r\n", [][]byte{first, second}, ""},
		{"none", "\n \n", nil, ": holds no secret: put a line of openssl rand -base64 32 into it"},
		{"no base64", "correct horse battery staple\n", nil, ": line 1 is not base64: make one with openssl rand -base64 32"},
		{"another base64", strings.NewReplacer("+", "-", "/", "_").Replace("+/" + firstLine[2:]), nil, ": line 1 is not base64: make one with openssl rand -base64 32"},
		{"too short", "\n" + base64.StdEncoding.EncodeToString(first[1:]), nil, ": line 2 has 31 bytes, want 32: make one with openssl rand -base64 32"},
		{"too long", base64.StdEncoding.EncodeToString(append(first, 1)), nil, ": line 1 has 33 bytes, want 32: make one with openssl rand -base64 32"},
		{"twice", firstLine + "\n" + secondLine + "\n" + firstLine, nil, ": line 3 repeats an earlier line"},
		{"hexadecimal", strings.Repeat("ab", 32), nil, ": line 1 has 48 bytes, want 32: make one with openssl rand -base64 32"},
		{"large", strings.Repeat(firstLine+"\n", 2000), nil, " is larger than 64KiB"},
	} {
		file := secretFile(t, "lk.key", test.content)
		have, err := readSecrets(file)
		if !reflect.DeepEqual(have, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, have, test.want)
		}
		message := strings.TrimPrefix(errorText(err), file)
		if message != test.wrong && ":"+message != test.wrong {
			t.Errorf("%s: got %q, want %q", test.name, message, test.wrong)
		}
		for _, line := range strings.Fields(test.content) {
			if strings.Contains(errorText(err), line) {
				t.Errorf("%s: the error shows the secret: %v", test.name, err)
			}
		}
	}
	if _, err := readSecrets(filepath.Join(t.TempDir(), "missing")); !os.IsNotExist(err) {
		t.Errorf("missing: got %v", err)
	}
	if _, err := readSecrets(t.TempDir()); !strings.HasSuffix(errorText(err), " is not a regular file") {
		t.Errorf("a directory: got %v", err)
	}
}

// Mutants killed: a short token passes; a token with a space passes, and can
// never be sent.
func TestTokenFiles(t *testing.T) {
	const a, b = "0123456789abcdef", "the-next.one_~+/for-rotation=="
	for _, test := range []struct {
		name, content string
		want          []string
		wrong         string
	}{
		{"one", a + "\n", []string{a}, ""},
		{"two", a + "\n\n" + b, []string{a, b}, ""},
		{"none", "", nil, " holds no token: put a line of openssl rand -hex 32 into it"},
		{"too short", a + "\n" + a[1:], nil, ": line 2 has 15 characters, want at least 16: make one with openssl rand -hex 32"},
		{"several words", "correct horse battery staple", nil, ": line 1 has a character that a token cannot have: make one with openssl rand -hex 32"},
		{"not ASCII", "pässwörter-sind-schön", nil, ": line 1 has a character that a token cannot have: make one with openssl rand -hex 32"},
		{"twice", a + "\n" + a, nil, ": line 2 repeats an earlier line"},
	} {
		file := secretFile(t, "token", test.content)
		have, err := readTokens(file)
		if !reflect.DeepEqual(have, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, have, test.want)
		}
		if message := strings.TrimPrefix(errorText(err), file); message != test.wrong {
			t.Errorf("%s: got %q, want %q", test.name, message, test.wrong)
		}
	}
}
