// SPDX-License-Identifier: MIT

// A disk is full for a while, in Go; put your own program in nbdcopy's place.
//
//	faultline serve --run 'cd scripts/examples/go && go run .' drive=id=vda,size=16M,werror=stop
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"time"
)

const patience = 30 * time.Second // nothing waits longer

type object = map[string]any

// machine is a control socket: commands, and events in the order of their arrival.
type machine struct {
	conn   net.Conn
	input  *json.Decoder
	events []object
}

func (m *machine) receive() (message object) {
	m.conn.SetReadDeadline(time.Now().Add(patience))
	if err := m.input.Decode(&message); err != nil {
		log.Fatal("nothing comes from the machine: ", err)
	}
	return message
}

// do runs a command and returns its value; events that come before go to events.
func (m *machine) do(command string, arguments object) any {
	json.NewEncoder(m.conn).Encode(object{"execute": command, "arguments": arguments})
	message := m.receive()
	for ; message["event"] != nil; message = m.receive() {
		m.events = append(m.events, message)
	}
	if failure, failed := message["error"].(object); failed {
		log.Fatal(command, ": ", failure["desc"])
	}
	return message["return"]
}

// wait returns the data of the next event of a name; events before it are dropped.
func (m *machine) wait(name string) (data any) {
	for event := (object{}); event["event"] != name; data = event["data"] {
		if len(m.events) == 0 {
			m.events = append(m.events, m.receive())
		}
		event, m.events = m.events[0], m.events[1:]
	}
	return data
}

func main() {
	log.SetFlags(0)
	conn, err := net.Dial("unix", os.Getenv("FAULTLINE_CONTROL"))
	if err != nil {
		log.Fatal(err)
	}
	m := machine{conn: conn, input: json.NewDecoder(conn)}
	m.receive() // the greeting
	m.do("qmp_capabilities", object{})

	fault := m.do("x-fault-add", object{"node-name": "vda", "iotype": "write", "errno": "ENOSPC"})
	program := exec.Command("nbdcopy", "--", "[", "nbdkit", "pattern", "16M", "]", os.Getenv("uri"))
	if err := program.Start(); err != nil {
		log.Fatal(err)
	}
	time.AfterFunc(patience, func() { program.Process.Kill() })
	fmt.Println("failed:", m.wait("BLOCK_IO_ERROR").(object)["reason"])
	m.wait("STOP")
	m.do("x-fault-remove", object{"id": fault.(object)["id"]})
	m.do("cont", object{})
	if err := program.Wait(); err != nil {
		log.Fatal("the program has failed: ", err)
	}
	fmt.Println("the program has succeeded")
}
