// Package configs holds the configurations that a user starts from. It exists
// for what the program carries with it: `config init` writes a file that is
// also here to be read and tested.
package configs

import _ "embed" // for Sidecar

// Sidecar is sidecar.yaml: every setting, explained.
//
//go:embed sidecar.yaml
var Sidecar []byte
