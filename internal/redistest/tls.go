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
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// StartTLS runs a redis-server that also speaks TLS. It returns the TLS
// address, and a configuration that alone trusts the server's certificate. The
// server is stopped when the test ends. If redis-server is missing, or was
// built without TLS, the test is skipped as by [Binary].
func StartTLS(t testing.TB) (addr string, config *tls.Config) {
	t.Helper()
	Binary(t, "redis-server")
	// redis-server reports the first option that it does not know.
	said, _ := exec.Command("redis-server", "--port", "0", "--tls-auth-clients", "no", "--no-such-option", "1").CombinedOutput()
	if strings.Contains(string(said), "tls-auth-clients") {
		t.Skip("redis-server was built without TLS")
	}
	port := Port(t)
	dir := t.TempDir()
	cert, key, config := certificate(t)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, data := range map[string][]byte{certFile: cert, keyFile: key} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatalf("redistest: %v", err)
		}
	}
	Start(t, "--tls-port", strconv.Itoa(port), "--tls-cert-file", certFile, "--tls-key-file", keyFile,
		"--tls-ca-cert-file", certFile, "--tls-auth-clients", "no")
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), config
}

// certificate returns a self-signed certificate, its key, and a configuration
// that trusts it.
func certificate(t testing.TB) (cert, key []byte, config *tls.Config) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redistest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return cert, key, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}
