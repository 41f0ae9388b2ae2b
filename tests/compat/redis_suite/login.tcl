# Sourced by Redis's own tests after their helpers. Connections log in with the token, and commands
# of administrators go to a connection of the operator, with a token and without.

set ::token $::env(SUITE_TOKEN)
set ::operator {}
set ::administration {flushall flushdb config debug dbsize info function}

proc operator {args} {
    if {$::operator eq {}} {
        set ::operator [connect 127.0.0.1 $::env(SUITE_OPERATOR)]
        set ::operator_id $::redis::id
    }
    $::operator {*}$args
}

# The keys of the tests.
proc own_keys {} {
    lsearch -all -inline -not [operator keys *] keyleash:*
}

rename redis connect
proc redis {{server 127.0.0.1} {port 6379} {defer 0} {tls 0} {tlsoptions {}} {readraw 0}} {
    set client [connect $server $port 0 $tls]
    set id $::redis::id
    if {$::token ne {}} {$client auth $::token}
    set ::redis::deferred($id) $defer
    set ::redis::readraw($id) $readraw
    return $client
}

rename ::redis::__dispatch__ ::redis::__send__
proc ::redis::__dispatch__ {id method args} {
    set is_plain [expr {![info exists ::operator_id] || $id != $::operator_id}]
    set is_plain [expr {$is_plain && $::redis::blocking($id) && !$::redis::deferred($id)}]
    set name [string tolower $method]
    if {!$is_plain || $name ni $::administration} {
        set script [string equal -nocase "$method [lindex $args 0]" "script flush"]
        # The server forgets the guards too, which is not what is tested.
        if {$is_plain && $script && $::token ne {}} {return OK}
        set code [catch {::redis::__send__ $id $method {*}$args} reply]
        # As on a server with a password, the user is logged out.
        if {$is_plain && $name eq {reset} && $::token ne {}} {::redis::__send__ $id auth $::token}
        return -code $code $reply
    }
    switch $name {
        flushall - flushdb {
            foreach key [own_keys] {operator unlink $key}
            return OK
        }
        dbsize {return [llength [own_keys]]}
        default {return [operator $name {*}$args]}
    }
}

# The server sees no client that waits at the gateway.
if {$::token ne {}} {
    proc wait_for_blocked_client {args} {after 300}
    proc wait_for_blocked_clients_count {args} {after 300}
}

# Which process the server is, although it is not one of the tests.
rename srv known_srv
proc srv {args} {
    if {[lindex $args end] eq {pid}} {return $::env(SUITE_PID)}
    known_srv {*}$args
}

# What a failed test leaves would fail the next ones: settings, and a connection in a transaction.
rename test run_test
proc test {args} {
    set settings [operator config get *]
    set failed $::num_failed
    uplevel 1 [list run_test {*}$args]
    if {$::num_failed > $failed} {
        foreach {name value} [operator config get *] {
            set before [dict get $settings $name]
            if {$value ne $before} {catch {operator config set $name $before}}
        }
        # Not among the others; it would delay DEBUG RELOAD.
        operator config set rdb-key-save-delay 0
        catch {reconnect}
    }
}
