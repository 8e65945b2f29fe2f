package dbtest

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"sync/atomic"
)

// liar is an unreliable database. In so many of a thousand steps, the
// connection breaks before or after the step. Some transactions are committed
// and return an error.
type liar struct {
	of1000 int
	lies   atomic.Int64
}

var errLie = errors.New("the database says that it has failed")

// lyingConn is a connection to a liar. One goroutine uses it at a time.
type lyingConn struct {
	*liar
	dead bool
}

func (l *lyingConn) do(name string, effect func() error) error {
	if l.dead {
		return errDead
	}
	err := l.step(name, effect)
	l.dead = errors.Is(err, errDead)
	return err
}

func (l *liar) step(name string, effect func() error) error {
	if rand.IntN(1000) >= l.of1000 || name == "ROLLBACK" {
		return effect()
	}
	l.lies.Add(1)
	switch lie := rand.IntN(3); {
	case lie == 0 || name == "BEGIN" || name == "SELECT":
		return errDead // before
	case lie == 1 && name == "COMMIT":
		if err := effect(); err != nil {
			return err
		}
		return errLie
	}
	_ = effect()
	return errDead // after
}

// lying returns the database of db, through l.
func (db *base) lying(l *liar) *sql.DB {
	return sql.OpenDB(mortals{func() (driver.Conn, error) { return db.Driver().Open(db.dsn) }, db.Driver(), func() steps { return &lyingConn{liar: l} }})
}
