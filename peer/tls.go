package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// SecretTLS is TLS 1.3 between members that share a secret and nothing else.
// Every member derives the same key pair from it (HKDF, RFC 5869), presents a
// certificate of that key and demands one: whoever proves, in TLS's own
// handshake, to hold the private key, knows the secret. The first secret is
// presented, and the keys of all are accepted, so that a secret can be changed
// on one member after the other.
func SecretTLS(secrets [][]byte) (*tls.Config, error) {
	if len(secrets) == 0 {
		return nil, errors.New("peer: no secret")
	}
	var accepted [][]byte
	var own tls.Certificate
	for i, secret := range secrets {
		seed, err := hkdf.Key(sha256.New, secret, nil, "lanekeeper peer key", ed25519.SeedSize)
		if err != nil {
			return nil, fmt.Errorf("peer: derive a key: %w", err)
		}
		private := ed25519.NewKeyFromSeed(seed)
		public, err := x509.MarshalPKIXPublicKey(private.Public())
		if err != nil {
			return nil, fmt.Errorf("peer: %w", err)
		}
		accepted = append(accepted, public)
		if i == 0 {
			if own, err = selfSigned(private); err != nil {
				return nil, err
			}
		}
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{own},
		ClientAuth:   tls.RequireAnyClientCert,
		// The certificate is only the key's envelope: names and chains say
		// nothing here, and VerifyConnection, which runs in their place, and on
		// resumption too, compares the key.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("the other side shows no certificate")
			}
			key := state.PeerCertificates[0].RawSubjectPublicKeyInfo
			for _, known := range accepted {
				if bytes.Equal(key, known) {
					return nil
				}
			}
			return errors.New("the other side has another cluster secret")
		},
	}, nil
}

func selfSigned(private ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "lanekeeper member"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, section 4.1.2.5: no well-defined end
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("peer: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
}

// Certificates are a member's own one and the authorities that sign those of the
// others. Both are asked for at every connection, and may change.
type Certificates interface {
	Own() *tls.Certificate
	Authorities() *x509.CertPool
}

// CertificateTLS is TLS 1.3 between members that each have a certificate, which
// one of the authorities has signed, for servers and for clients. Which name it
// has does not matter: a member is whoever has one.
func CertificateTLS(c Certificates) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.Own(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Own(), nil },
		ClientAuth:           tls.RequireAnyClientCert,
		InsecureSkipVerify:   true, //nolint:gosec // VerifyConnection verifies the chain; the names of members are no host names
		VerifyConnection: func(state tls.ConnectionState) error {
			options := x509.VerifyOptions{Roots: c.Authorities(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
			if len(state.PeerCertificates) == 0 {
				return errors.New("the other side shows no certificate")
			}
			for _, c := range state.PeerCertificates[1:] {
				options.Intermediates.AddCert(c)
			}
			_, err := state.PeerCertificates[0].Verify(options)
			return err
		},
	}
}
