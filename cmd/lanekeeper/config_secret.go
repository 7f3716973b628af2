package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A secret file holds one secret a line, so that a secret can be changed while
// the cluster runs: add the new one behind the old on every node, then put it
// first on every node, then remove the old one.

// secretBytes is the length of a cluster's secret: a key of AES-256.
const secretBytes = 32

// readSecrets reads a file with secrets of the cluster. No error holds anything
// of a secret.
func readSecrets(path string) ([][]byte, error) {
	var secrets [][]byte
	err := eachLine(path, func(line string) error {
		secret, err := base64.StdEncoding.DecodeString(line)
		switch {
		case err != nil:
			return fmt.Errorf("is not base64: make one with %s", makeSecret)
		case len(secret) != secretBytes:
			return fmt.Errorf("has %d bytes, want %d: make one with %s", len(secret), secretBytes, makeSecret)
		case slices.ContainsFunc(secrets, func(earlier []byte) bool { return bytes.Equal(earlier, secret) }):
			return errGivenTwice
		}
		secrets = append(secrets, secret)
		return nil
	})
	if err == nil && len(secrets) == 0 {
		err = fmt.Errorf("%s holds no secret: put a line of %s into it", path, makeSecret)
	}
	if err != nil {
		return nil, err
	}
	return secrets, nil
}

// tokenMin is enough characters of a random token that nobody guesses it.
const tokenMin = 16

var bearerToken = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`) // RFC 6750, section 2.1

// readTokens reads a file with bearer tokens. No error holds anything of a
// token.
func readTokens(path string) ([]string, error) {
	var tokens []string
	err := eachLine(path, func(line string) error {
		switch {
		case !bearerToken.MatchString(line):
			return errors.New("has a character that a token cannot have: make one with openssl rand -hex 32")
		case len(line) < tokenMin:
			return fmt.Errorf("has %d characters, want at least %d: make one with openssl rand -hex 32", len(line), tokenMin)
		case slices.Contains(tokens, line):
			return errGivenTwice
		}
		tokens = append(tokens, line)
		return nil
	})
	if err == nil && len(tokens) == 0 {
		err = fmt.Errorf("%s holds no token: put a line of openssl rand -hex 32 into it", path)
	}
	if err != nil {
		return nil, err
	}
	return tokens, nil
}

// readPassword reads a file with one password, which may hold blanks. No error
// holds anything of it.
func readPassword(path string) (string, error) {
	password, err := readExpanded(path)
	switch {
	case err != nil:
		return "", err
	case password == "":
		return "", fmt.Errorf("%s holds no password: put it into the first line", path)
	case strings.ContainsAny(password, "\r\n"):
		return "", fmt.Errorf("%s has more than one line, and a password is one", path)
	}
	return password, nil
}

var errGivenTwice = errors.New("repeats an earlier line")

// eachLine calls read for each line of a small file that is not blank.
func eachLine(path string, read func(line string) error) error {
	content, err := readExpanded(path)
	if err != nil {
		return err
	}
	number := 0
	for line := range strings.Lines(content) {
		number++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := read(line); err != nil {
			return fmt.Errorf("%s: line %d %w", path, number, err)
		}
	}
	return nil
}
