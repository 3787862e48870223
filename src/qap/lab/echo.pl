# echo.pl READY tap NAME: send every test frame that comes out of a tap back to where it came from.
# echo.pl READY vsock PORT: send back all that comes on connections to a port, one at a time.
# It writes to the fifo READY when it can be reached.
use strict;
use warnings;

# <linux/if_packet.h>, <linux/if_ether.h> and <linux/vm_sockets.h>.
use constant {
    AF_PACKET => 17, AF_VSOCK => 40, SOCK_RAW => 3, SOCK_STREAM => 1,
    PACKET_OUTGOING => 4, ETH_P_802_EX1 => 0x88b5, VMADDR_CID_ANY => 0xffffffff,
};

my ($ready, $kind, $what) = @ARGV;

sub reachable {
    open my $fifo, '>', $ready or die "$ready: $!\n";
    print $fifo "ready\n";
    close $fifo;
}

if ($kind eq 'tap') {
    open my $file, '<', "/sys/class/net/$what/ifindex" or die "$what: $!\n";
    my $index = <$file>;
    socket(my $sock, AF_PACKET, SOCK_RAW, unpack('S', pack('n', ETH_P_802_EX1))) or die "$!\n";
    bind($sock, pack('SnlSCCx8', AF_PACKET, ETH_P_802_EX1, $index, 0, 0, 0)) or die "$what: $!\n";
    reachable();
    while (defined(my $from = recv($sock, my $frame, 65536, 0))) {
        next if (unpack('SnlSCC', $from))[4] == PACKET_OUTGOING;
        my $back = substr($frame, 6, 6) . substr($frame, 0, 6) . substr($frame, 12);
        defined(send($sock, $back, 0)) or die "$what: $!\n";
    }
    die "$what: $!\n";
}

socket(my $sock, AF_VSOCK, SOCK_STREAM, 0) or die "$!\n";
bind($sock, pack('SSLLx4', AF_VSOCK, 0, $what, VMADDR_CID_ANY)) or die "port $what: $!\n";
listen($sock, 4) or die "port $what: $!\n";
reachable();
while (accept(my $peer, $sock)) {
    while (sysread($peer, my $data, 65536)) {
        syswrite($peer, $data);
    }
}
