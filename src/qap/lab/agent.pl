# agent.pl PORT ENDED: do in L1 what the other end of a port asks for. Lines in: a request and its
# arguments, in which "%" and two hexadecimal digits stand for a byte.
#   read PATH, clear PATH, names FOLDER, links FOLDER (what links there refer to)
#   start NAME LOG COMMAND…    run a program; its process ID is the answer
#   kill SIGNAL PID
#   nodes SECONDS PATH…        wait until these are character devices
# Each is answered by the size of what follows in a line of its own, or "-" and why not. When a
# program ends, "NAME STATUS" goes to the port ENDED, with the status that a shell has.
use strict;
use warnings;

# <linux/netlink.h>, <sys/socket.h>, <sys/wait.h>; setsid(2) of x86-64.
use constant { AF_NETLINK => 16, SOCK_RAW => 3, KOBJECT_UEVENT => 15, MSG_DONTWAIT => 0x40,
    WNOHANG => 1, SETSID => 112 };

my ($port_path, $ended_path) = @ARGV;
my %programs;
open my $port, '+<', $port_path or die "$port_path: $!\n";
open my $ended, '>', $ended_path or die "$ended_path: $!\n";
socket my $uevents, AF_NETLINK, SOCK_RAW, KOBJECT_UEVENT or die "uevents: $!\n";
bind $uevents, pack 'SSLL', AF_NETLINK, 0, 0, 1 or die "uevents: $!\n";

sub say_to {
    my ($file, $text) = @_;
    while (length $text) {
        my $count = syswrite $file, $text;
        next if !defined $count && $!{EINTR};
        defined $count or die "a port: $!\n";
        substr($text, 0, $count) = '';
    }
}

sub content {
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!\n";
    my $text = '';
    while (1) {
        my $count = sysread $file, $text, 65536, length $text;
        defined $count or die "$path: $!\n";
        return $text if !$count;
    }
}

sub names {
    my ($folder) = @_;
    opendir my $open, $folder or die "$folder: $!\n";
    return grep { !/^\.\.?$/ } readdir $open;
}

sub reap {
    local ($!, $?);
    while ((my $pid = waitpid -1, WNOHANG) > 0) {
        my $status = $? & 127 ? 128 + ($? & 127) : $? >> 8;
        my $name = delete $programs{$pid};
        say_to $ended, "$name $status\n" if defined $name;
    }
}

sub start {
    my ($name, $log, @command) = @_;
    my $pid;
    {
        # One that ends at once is to have its name first.
        local $SIG{CHLD} = 'DEFAULT';
        $pid = fork // die "fork: $!\n";
        if (!$pid) {
            syscall SETSID;
            open STDIN, '<', '/dev/null';
            open STDOUT, '>', $log;
            open STDERR, '>&', \*STDOUT;
            { no warnings 'exec'; exec { $command[0] } @command; }
            print STDERR "$command[0]: $!\n";
            exit 127;
        }
        $programs{$pid} = $name;
    }
    reap;
    return $pid;
}

sub nodes {
    my ($seconds, @paths) = @_;
    my $end = time + $seconds;
    while (my @missing = grep { !-c $_ } @paths) {
        my ($left, $readable) = ($end - time, '');
        $left > 0 or die "waited $seconds s for @missing\n";
        vec($readable, fileno $uevents, 1) = 1;
        select $readable, undef, undef, $left;
        1 while defined recv $uevents, my $event, 65536, MSG_DONTWAIT;
    }
    return '';
}

my %does = (
    read  => \&content,
    clear => sub { open my $file, '>', $_[0] or die "$_[0]: $!\n"; '' },
    names => sub { join '', map { "$_\n" } names $_[0] },
    links => sub { my ($at) = @_; join '', map { (readlink("$at/$_") // 'gone') . "\n" } names $at },
    start => \&start,
    kill  => sub { kill @_; '' },
    nodes => \&nodes,
);

$SIG{CHLD} = \&reap;
while (my $line = <$port>) {
    chomp $line;
    my ($what, @arguments) = map { s/%(..)/chr hex $1/ger } split / /, $line, -1;
    my $answer = eval { $does{$what}->(@arguments) };
    say_to $port, defined $answer ? length($answer) . "\n$answer" : "- $@";
}
