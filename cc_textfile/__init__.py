"""ChinaCache CDN statistics as a Prometheus text file.

The rooms in reading order, which is the way of a datum, from settings to output:

    settings        one frozen `Settings` out of flags, environment and credential files
    values          what an operator writes, read into what is meant
    window          time windows in UTC+8, and how the portal spells them
    client          `PortalClient`: a method an endpoint, retries, redaction
    transport       one HTTP exchange, bounded in time and in size
    sockets         connections on which every wait ends in time
    answers         a type and a decoder per endpoint
    poll            each endpoint of each channel → `Snapshot`
    collector       `Snapshot` → metric families; the table of metrics
    translations    Chinese names → English labels
    output          the text file, the Pushgateway, or both
    report          what a poll tells the operator
    runner          one poll, or the loop
    signals         what SIGTERM, SIGINT and SIGHUP do
    notify          what systemd is told of a daemon
    cli             commands, wiring, exit status
    logs            one line an event, as text or JSON
    redaction       keeps secrets out of what people read
    errors          the error tree
    check           what a poll needs, step by step, and what mends it
    step            one step of it
    check_portal    the portal, from its name to its numbers
    check_textfile  the text file's folder
    check_prometheus  the Pushgateway, and node_exporter
    demo            a portal of its own on loopback
"""

__version__ = "1.0.0"
