package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The administrator of servers that ask for a user: it may do everything.
const (
	AdminUser     = "admin"
	AdminPassword = "admin-secret"
)

// Secure has certificates of an authority of its own, and users.
type Secure struct {
	// CAFile is the authority's certificate, CertFile and KeyFile are of a
	// client or server on the loopback address. All are PEM.
	CAFile, CertFile, KeyFile string

	tb testing.TB
	// users is an ACL file, "" on sentinels, whose users are in their configuration.
	users string
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
}

// NewSecure makes certificates, and users by lines of an ACL file beside the
// administrator.
func NewSecure(tb testing.TB, users ...string) *Secure {
	tb.Helper()
	dir := tb.TempDir()
	s := &Secure{
		CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		tb: tb, users: filepath.Join(dir, "users.acl"),
	}
	require.NoError(tb, os.WriteFile(s.users, []byte(usersText(users)), 0o600))

	var err error
	s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	template := certificate("test authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &s.key.PublicKey, s.key)
	require.NoError(tb, err)
	s.ca, err = x509.ParseCertificate(der)
	require.NoError(tb, err)
	writePEM(tb, s.CAFile, "CERTIFICATE", der)
	s.Issue("first")
	return s
}

// usersText has users by lines of an ACL file beside the administrator, and
// nobody else.
func usersText(users []string) string {
	text := "user default off\nuser " + AdminUser + " on >" + AdminPassword + " ~* &* +@all\n"
	for _, user := range users {
		text += user + "\n"
	}
	return text
}

func certificate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

// Issue replaces CertFile and KeyFile.
func (s *Secure) Issue(name string) {
	s.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(s.tb, err)
	template := certificate(name)
	template.IPAddresses, template.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, s.ca, &key.PublicKey, s.key)
	require.NoError(s.tb, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(s.tb, err)
	writePEM(s.tb, s.KeyFile, "PRIVATE KEY", secret)
	writePEM(s.tb, s.CertFile, "CERTIFICATE", der)
}

func writePEM(tb testing.TB, file, kind string, der []byte) {
	tb.Helper()
	require.NoError(tb, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// TLS is what a client needs.
func (s *Secure) TLS() *tls.Config {
	s.tb.Helper()
	pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	require.NoError(s.tb, err)
	pool := x509.NewCertPool()
	pool.AddCert(s.ca)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{pair}}
}

// open is the same without users; nil stays nil.
func (s *Secure) open() *Secure {
	if s == nil {
		return nil
	}
	without := *s
	without.users = ""
	return &without
}

// serverArgs are redis-server's arguments for a port, with TLS unless s is nil.
func (s *Secure) serverArgs(port string) []string {
	if s == nil {
		return []string{"--port", port}
	}
	args := []string{
		"--port", "0", "--tls-port", port, "--tls-auth-clients", "yes",
		"--tls-cert-file", s.CertFile, "--tls-key-file", s.KeyFile, "--tls-ca-cert-file", s.CAFile,
		"--tls-replication", "yes", "--tls-cluster", "yes",
	}
	if s.users != "" {
		args = append(args, "--aclfile", s.users, "--masteruser", AdminUser, "--masterauth", AdminPassword)
	}
	return args
}
