// Package sizes holds no code. Its tests ask for as much as a Spec admits: calls for
// many keys, and collections as large as they can be. They measure what that costs the
// process and the server.
package sizes
