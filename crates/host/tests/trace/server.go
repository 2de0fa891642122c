// net/http on both sides: goroutines, which the threads under them say nothing about. `server LEAF_PORT` prints its own port.
package main

import (
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

var leaf = os.Args[len(os.Args)-1]

func call(path string) {
	response, err := http.Get("http://127.0.0.1:" + leaf + path)
	if err == nil {
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
}

func pause() { time.Sleep(time.Duration(rand.Intn(10)) * time.Millisecond) }

func work(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	id, pattern := r.URL.Query().Get("id"), r.URL.Query().Get("pattern")
	switch pattern {
	case "delayed":
		pause()
		call("/leaf?id=" + id)
	case "sequential":
		for i := 0; i < 3; i++ {
			call("/leaf?id=" + id)
			pause()
		}
	case "fanout":
		var all sync.WaitGroup
		for i := 0; i < 3; i++ {
			all.Add(1)
			go func() { call("/leaf?id=" + id); all.Done() }()
		}
		all.Wait()
	case "timer":
		done := make(chan bool)
		time.AfterFunc(5*time.Millisecond, func() { call("/leaf?id=" + id); close(done) })
		<-done
	case "straggler":
		go func() { pause(); call("/late?id=" + id) }()
	default:
		call("/leaf?id=" + id)
	}
	w.Header().Set("Content-Length", "2")
	io.WriteString(w, "ok")
	if pattern == "after" {
		w.(http.Flusher).Flush()
		call("/late?id=" + id)
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			call("/background")
			time.Sleep(5 * time.Millisecond)
		}
	}()
	http.Serve(listener, http.HandlerFunc(work))
}
